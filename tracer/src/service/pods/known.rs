//! The pods that are known. No I/O and no clock: bounded, and told what happened.
//!
//! A server is not believed in everything: what is no name, UID or label by the rules of Kubernetes is
//! left out, so that nothing of what is told needs a second look.
//!
//! The cgroups of a static pod are named after the hash of its file, which its mirror at the API server
//! has as an annotation: under that it is known here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use globset::GlobSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::container::{Labels, Pod, is_label_name, is_label_value, is_name, is_pod_uid};

/// Pods that are known at once. A node has some hundreds at most.
pub(super) const MOST_PODS: usize = 1024;
/// Labels of one that are known, the first by name.
pub(super) const MOST_LABELS: usize = 64;
/// How long one is known that is gone: findings come after its end.
pub(super) const GONE_KEPT: Duration = Duration::from_mins(10);
/// What the mirror of a static pod has its hash in.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// A pod that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As cgroups' paths have it.
    pub uid: Arc<str>,
    /// What is told of it.
    pub pod: Arc<Pod>,
    /// All of its labels.
    pub labels: Arc<Labels>,
}

/// All that are known.
#[derive(Debug)]
pub(super) struct Known {
    /// Labels with such names are told.
    told: GlobSet,
    pods: HashMap<Arc<str>, Entry>,
    /// New, or with other labels.
    changed: BTreeSet<Arc<str>>,
    /// Those that a list which goes on has told of.
    listed: Option<BTreeSet<Arc<str>>>,
    left_out: u64,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    /// The API server's own UID for it.
    object: String,
    gone_at: Option<Instant>,
}

impl Known {
    pub(super) fn telling(told: GlobSet) -> Self {
        Self { told, pods: HashMap::new(), changed: BTreeSet::new(), listed: None, left_out: 0 }
    }

    pub(super) fn find(&self, uid: &str) -> Option<Found> {
        self.pods.get(uid).map(|entry| entry.found.clone())
    }

    pub(super) fn all(&self) -> Vec<Found> {
        self.pods.values().map(|entry| entry.found.clone()).collect()
    }

    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.pods.len()).unwrap_or(u64::MAX)
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn take_changed(&mut self) -> Vec<Found> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|uid| self.find(uid)).collect()
    }

    /// From now until [`Known::list_ended`], all pods are told.
    pub(super) fn list_began(&mut self) {
        self.listed = Some(BTreeSet::new());
    }

    /// Those that were not told are gone.
    pub(super) fn list_ended(&mut self, now: Instant) {
        let Some(listed) = self.listed.take() else { return };
        for (uid, entry) in &mut self.pods {
            if !listed.contains(uid) {
                entry.gone_at.get_or_insert(now);
            }
        }
        self.forget(now);
    }

    /// One is there. Whether there is something new.
    pub(super) fn is_there(&mut self, meta: ObjectMeta, now: Instant) -> bool {
        let Some((object, found)) = self.read(meta) else {
            self.left_out += 1;
            return false;
        };
        let uid = Arc::clone(&found.uid);
        let is_new = match self.pods.get(&uid) {
            // Whoever may make pods may claim to be the mirror of a static one: who was first is it.
            Some(known) if known.object != object && known.gone_at.is_none() => {
                self.left_out += 1;
                return false;
            }
            Some(known) => known.object != object || known.found.labels != found.labels,
            None => true,
        };
        if !self.pods.contains_key(&uid) && !self.has_room(now) {
            self.left_out += 1;
            return false;
        }
        if let Some(listed) = &mut self.listed {
            listed.insert(Arc::clone(&uid));
        }
        self.pods.insert(Arc::clone(&uid), Entry { found, object, gone_at: None });
        if is_new {
            self.changed.insert(uid);
        }
        is_new
    }

    /// One is gone.
    pub(super) fn is_gone(&mut self, meta: &ObjectMeta, now: Instant) {
        let object = meta.uid.as_deref().unwrap_or_default();
        if let Some(entry) = self.pods.get_mut(key(meta))
            && entry.object == object
        {
            entry.gone_at.get_or_insert(now);
        }
        self.forget(now);
    }

    /// Forgets those that have been gone for long.
    pub(super) fn forget(&mut self, now: Instant) {
        let is_kept = |at: Instant| now.saturating_duration_since(at) < GONE_KEPT;
        self.pods.retain(|_, entry| entry.gone_at.is_none_or(is_kept));
    }

    /// Makes room for one more, at the cost of the one that has been gone for longest.
    fn has_room(&mut self, now: Instant) -> bool {
        self.forget(now);
        if self.pods.len() < MOST_PODS {
            return true;
        }
        let gone = self.pods.iter().filter_map(|(uid, entry)| Some((entry.gone_at?, uid)));
        let Some((_, oldest)) = gone.min() else { return false };
        let oldest = Arc::clone(oldest);
        self.pods.remove(&oldest).is_some()
    }

    /// A pod as the server tells it: its UID there, and what is known of it. `None`: it is none.
    fn read(&self, meta: ObjectMeta) -> Option<(String, Found)> {
        let uid: Arc<str> = key(&meta).into();
        let ObjectMeta { name, namespace, uid: object, labels, .. } = meta;
        let (object, name, namespace) = (object?, name?, namespace?);
        if !is_pod_uid(&uid) || !is_pod_uid(&object) || !is_name(&name) || !is_name(&namespace) {
            return None;
        }
        let labels = labels.unwrap_or_default().into_iter();
        let labels = labels.filter(|(name, value)| is_label_name(name) && is_label_value(value));
        let labels: Labels = labels.take(MOST_LABELS).collect();
        let told = labels.iter().filter(|(name, _)| self.told.is_match(name));
        let told = told.map(|(name, value)| (name.clone(), value.clone())).collect();
        let pod = Arc::new(Pod { name, namespace, labels: told });
        Some((object, Found { uid, pod, labels: Arc::new(labels) }))
    }
}

/// What its cgroups are named after.
fn key(meta: &ObjectMeta) -> &str {
    let mirrored = meta.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR));
    // A hash has no dashes, so nobody can claim to be a pod with a UID of its own.
    let mirrored = mirrored.filter(|hash| !hash.contains('-') && is_pod_uid(hash));
    mirrored.or(meta.uid.as_ref()).map_or("", |uid| uid)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use globset::{Glob, GlobSetBuilder};

    use super::*;

    const STATIC: &str = "64cc9dc0a6b3a0e3a5bb56f4ef9a7a2d";

    fn uid(number: usize) -> String {
        format!("7d7d1f3b-0a6f-4c3f-9a6b-{number:012x}")
    }

    fn meta(number: usize, labels: &[(&str, &str)]) -> ObjectMeta {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ObjectMeta {
            name: Some(format!("web-{number}")),
            namespace: Some("default".to_owned()),
            uid: Some(uid(number)),
            labels: Some(labels.iter().map(owned).collect()),
            ..ObjectMeta::default()
        }
    }

    fn mirror(number: usize, hash: &str) -> ObjectMeta {
        let annotations = BTreeMap::from([(MIRROR.to_owned(), hash.to_owned())]);
        ObjectMeta { annotations: Some(annotations), ..meta(number, &[]) }
    }

    fn known() -> Known {
        let mut told = GlobSetBuilder::new();
        told.add(Glob::new("app.kubernetes.io/*").unwrap());
        Known::telling(told.build().unwrap())
    }

    fn uids(found: &[Found]) -> Vec<&str> {
        found.iter().map(|found| &*found.uid).collect()
    }

    #[test]
    fn labels_that_are_told_are_those_that_were_chosen() {
        let (mut known, now) = (known(), Instant::now());
        let labels = [("app.kubernetes.io/name", "web"), ("team", "x")];
        assert!(known.is_there(meta(1, &labels), now));
        let found = known.find(&uid(1)).unwrap();
        assert_eq!((&*found.pod.name, &*found.pod.namespace), ("web-1", "default"));
        assert_eq!(found.pod.labels.keys().collect::<Vec<_>>(), ["app.kubernetes.io/name"]);
        assert_eq!(found.labels.len(), 2, "rules ask for any");
    }

    #[test]
    fn change_is_another_label_and_nothing_else() {
        let (mut known, now) = (known(), Instant::now());
        assert!(known.is_there(meta(1, &[]), now));
        assert_eq!(uids(&known.take_changed()), [uid(1)]);
        assert!(!known.is_there(meta(1, &[]), now), "its status, maybe");
        assert!(known.is_there(meta(1, &[("a", "b")]), now));
        assert_eq!(uids(&known.take_changed()), [uid(1)]);
        assert!(known.take_changed().is_empty());
    }

    #[test]
    fn one_that_is_gone_is_known_for_a_while() {
        let (mut known, now) = (known(), Instant::now());
        known.is_there(meta(1, &[]), now);
        known.is_gone(&meta(1, &[]), now);
        known.forget(now + GONE_KEPT - Duration::from_nanos(1));
        assert!(known.find(&uid(1)).is_some());
        known.forget(now + GONE_KEPT);
        assert!(known.find(&uid(1)).is_none());
        assert_eq!(known.len(), 0);
    }

    #[test]
    fn one_that_a_list_does_not_tell_is_gone() {
        let (mut known, now) = (known(), Instant::now());
        known.is_there(meta(1, &[]), now);
        known.is_there(meta(2, &[]), now);
        known.list_began();
        known.is_there(meta(2, &[]), now);
        known.list_ended(now);
        known.forget(now + GONE_KEPT);
        assert_eq!(uids(&known.all()), [uid(2)]);
    }

    #[test]
    fn list_that_was_broken_off_tells_of_nobody_that_he_is_gone() {
        let (mut known, now) = (known(), Instant::now());
        known.is_there(meta(1, &[]), now);
        known.list_began();
        known.list_began();
        known.is_there(meta(1, &[]), now);
        known.list_ended(now);
        known.forget(now + GONE_KEPT);
        assert!(known.find(&uid(1)).is_some());
    }

    #[test]
    fn static_pod_is_known_by_the_hash_that_its_cgroups_have() {
        let (mut known, now) = (known(), Instant::now());
        assert!(known.is_there(mirror(1, STATIC), now));
        assert_eq!(known.find(STATIC).unwrap().pod.name, "web-1");
        assert!(known.find(&uid(1)).is_none());
        // Another's claim; and that of one that was made anew.
        assert!(!known.is_there(mirror(2, STATIC), now));
        known.is_gone(&mirror(2, STATIC), now);
        assert_eq!(known.find(STATIC).unwrap().pod.name, "web-1");
        known.is_gone(&mirror(1, STATIC), now);
        assert!(known.is_there(mirror(3, STATIC), now));
        assert_eq!(known.find(STATIC).unwrap().pod.name, "web-3");
    }

    #[test]
    fn nobody_can_claim_to_be_a_pod_with_a_uid_of_its_own() {
        let (mut known, now) = (known(), Instant::now());
        assert!(known.is_there(mirror(2, &uid(1)), now));
        assert_eq!(known.find(&uid(2)).unwrap().pod.name, "web-2");
        assert!(known.find(&uid(1)).is_none());
    }

    #[test]
    fn what_is_no_pod_is_left_out() {
        let (mut known, now) = (known(), Instant::now());
        let good = meta(1, &[]);
        let with = |change: fn(&mut ObjectMeta)| {
            let mut meta = good.clone();
            change(&mut meta);
            meta
        };
        let wrong = [
            with(|meta| meta.name = None),
            with(|meta| meta.name = Some("\u{1b}[2J".to_owned())),
            with(|meta| meta.name = Some("a".repeat(254))),
            with(|meta| meta.namespace = Some("../etc".to_owned())),
            with(|meta| meta.uid = None),
            with(|meta| meta.uid = Some("x".to_owned())),
        ];
        for (number, meta) in wrong.into_iter().enumerate() {
            assert!(!known.is_there(meta, now));
            assert_eq!((known.len(), known.left_out()), (0, number as u64 + 1));
        }
        let (long, many) = ("v".repeat(64), (0..100).map(|number| format!("l{number:03}")));
        let many: Vec<_> = many.collect();
        let mut labels = vec![("ok", "yes"), ("bad name", "x"), ("n", "\n"), ("long", &*long)];
        labels.extend(many.iter().map(|name| (&**name, "x")));
        assert!(known.is_there(meta(1, &labels), now));
        let found = known.find(&uid(1)).unwrap().labels;
        assert_eq!(found.len(), MOST_LABELS);
        assert!(["bad name", "n", "long"].iter().all(|name| !found.contains_key(*name)));
    }

    #[test]
    fn room_is_made_by_those_that_are_gone_alone() {
        let (mut known, now) = (known(), Instant::now());
        for number in 0..MOST_PODS {
            assert!(known.is_there(meta(number, &[]), now));
        }
        assert!(!known.is_there(meta(MOST_PODS, &[]), now));
        assert_eq!((known.len(), known.left_out()), (MOST_PODS as u64, 1));
        let later = now + Duration::from_secs(1);
        known.is_gone(&meta(7, &[]), later);
        known.is_gone(&meta(5, &[]), now);
        assert!(known.is_there(meta(MOST_PODS, &[]), later));
        assert!(known.find(&uid(5)).is_none() && known.find(&uid(7)).is_some());
    }
}
