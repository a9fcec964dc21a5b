//! Which container a process runs in, from the path of its cgroup; and what a pod is called.
//!
//! ```text
//! /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope
//! /kubepods/burstable/podUID/ID
//! /system.slice/docker-ID.scope          /docker/ID          /machine.slice/libpod-ID.scope/container
//! ```
//!
//! Runtimes name a container's cgroup after its id, 64 hexadecimal digits. Where containers run in
//! containers (Docker in a pod, kind), the path names all of them, outermost first: told are the
//! innermost container, and the innermost pod, which may be one that the container runs inside of.
//!
//! A path is a claim of whoever may make cgroups: a container that was given cgroups to keep can
//! name one of them like a container that does not exist. The container that it is in stands before
//! that in the path, which is told as well. A tracer in a cgroup namespace of its own sees paths from
//! there (`/../../kubepods-podUID.slice/...`): then a container in its own pod is told without the pod.

use std::collections::BTreeMap;

use serde::Serialize;

/// Most components of a path that are looked at, from its end. Nested containers add about six each.
const MAX_DEPTH: usize = 64;
/// Digits of a container's id: 256 bits.
const ID_DIGITS: usize = 64;
/// Longest name of a pod or namespace, bytes.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>
const LONGEST_NAME: usize = 253;
/// Longest name of a label after its prefix, and longest value, bytes.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>
const LONGEST_LABEL: usize = 63;

/// A container and the pod that it is part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container<'a> {
    /// 64 hexadecimal digits.
    pub id: &'a str,
    /// What runs it, where the path tells.
    pub runtime: Option<Runtime>,
    /// UID of its pod, as Kubernetes writes it.
    pub pod_uid: Option<String>,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Runtime {
    /// Docker; also below Kubernetes, by way of `cri-dockerd`.
    #[serde(rename = "docker")]
    Docker,
    /// containerd, used by Kubernetes or `nerdctl`.
    #[serde(rename = "containerd")]
    Containerd,
    /// CRI-O.
    #[serde(rename = "cri-o")]
    Crio,
    /// Podman.
    #[serde(rename = "podman")]
    Podman,
}

/// Labels of a pod, by their names.
pub type Labels = BTreeMap<String, String>;

/// What Kubernetes calls a pod, as far as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its name, as Kubernetes writes them.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Those of its labels that are told.
    pub labels: Labels,
}

impl<'a> Container<'a> {
    /// The container whose cgroup is `path`, or one that `path` is below of.
    #[must_use]
    pub fn of_cgroup(path: &'a [u8]) -> Option<Self> {
        let mut components = path.rsplit(|byte| *byte == b'/').take(MAX_DEPTH).peekable();
        let mut container = None;
        while let Some(component) = components.next() {
            // Bytes that are no text are part of no such name.
            let Ok(component) = str::from_utf8(component) else { continue };
            if container.is_none() {
                let folder = components.peek().copied().unwrap_or_default();
                container = container_of(component, folder);
            }
            if let Some((id, runtime)) = container
                && let Some(pod_uid) = pod_of(component)
            {
                return Some(Self { id, runtime, pod_uid: Some(pod_uid) });
            }
        }
        container.map(|(id, runtime)| Self { id, runtime, pod_uid: None })
    }
}

/// What a component says of a container: `docker-ID.scope`, `crio-ID`, `ID`, or what systemd would
/// have been asked for, `SLICE:cri-containerd:ID`. `folder`: the component before it.
fn container_of<'a>(component: &'a str, folder: &[u8]) -> Option<(&'a str, Option<Runtime>)> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let Some((prefix, id)) = name.rsplit_once(['-', ':']) else {
        let runtime = (folder == b"docker").then_some(Runtime::Docker);
        return is_id(name).then_some((name, runtime));
    };
    let prefix = prefix.rsplit_once(':').map_or(prefix, |(_slice, prefix)| prefix);
    // Not `crio-conmon` and `libpod-conmon`: they watch the container from outside of it.
    let runtime = match prefix {
        "docker" => Runtime::Docker,
        "cri-containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        "libpod" | "libpod-payload" => Runtime::Podman,
        _ => return None,
    };
    is_id(id).then_some((id, Some(runtime)))
}

/// UID of the pod that a component is named after: `podUID`, or `kubepods-burstable-podUID.slice`
/// with underscores, since a dash means a folder to systemd.
fn pod_of(component: &str) -> Option<String> {
    // Where systemd would have been asked for it: `SLICE:cri-containerd:ID`.
    let slice = component.split_once(':').map_or(component, |(slice, _)| slice);
    let uid = match slice.strip_suffix(".slice") {
        Some(slice) if slice.contains("kubepods") => slice.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => slice.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    is_pod_uid(&uid).then_some(uid)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(is_digit)
}

/// A UUID; of a pod that comes from a file of its node, a hash of 32 digits.
pub(crate) fn is_pod_uid(uid: &str) -> bool {
    let mut parts = uid.split('-');
    let is_uuid = [8, 4, 4, 4, 12].iter().all(|digits| {
        parts.next().is_some_and(|part| part.len() == *digits && part.bytes().all(is_digit))
    }) && parts.next().is_none();
    is_uuid || (uid.len() == 32 && uid.bytes().all(is_digit))
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether a pod, a namespace or a node can be called this: a DNS subdomain.
pub(crate) fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= LONGEST_NAME
        && [bytes.first(), bytes.last()].into_iter().all(|byte| byte.is_some_and(|b| is_plain(*b)))
        && bytes.iter().all(|byte| is_plain(*byte) || matches!(byte, b'-' | b'.'))
}

/// Whether a label can be called this: `name`, or `prefix.example/name`.
pub(crate) fn is_label_name(name: &str) -> bool {
    let (prefix, name) = name.rsplit_once('/').map_or((None, name), |(p, n)| (Some(p), n));
    prefix.is_none_or(is_name) && !name.is_empty() && is_label_value(name)
}

/// Whether a label can have this value; it may be empty.
pub(crate) fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().flatten();
    bytes.len() <= LONGEST_LABEL
        && ends.into_iter().all(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
    const INNER: &str = "b9c8a7d6e5f40312233445566778899aabbccddeeff001122334455667788990";
    const UID: &str = "7d7d1f3b-0a6f-4c3f-9a6b-2f1e0d9c8b7a";
    const STATIC: &str = "64cc9dc0a6b3a0e3a5bb56f4ef9a7a2d";

    /// A path with its ids in it: `ID`, `INNER`, `UID`, `U_D` with underscores, `STATIC`.
    fn path(pattern: &str) -> String {
        pattern
            .replace("INNER", INNER)
            .replace("UID", UID)
            .replace("U_D", &UID.replace('-', "_"))
            .replace("STATIC", STATIC)
            .replace("ID", ID)
    }

    #[track_caller]
    fn expect(pattern: &str, expected: Option<(&str, Option<Runtime>, Option<&str>)>) {
        let path = path(pattern);
        let found = Container::of_cgroup(path.as_bytes());
        let found = found.as_ref();
        let found = found.map(|found| (found.id, found.runtime, found.pod_uid.as_deref()));
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn containers_beside_kubernetes() {
        use Runtime::{Containerd, Docker, Podman};
        for (pattern, runtime) in [
            // Docker: cgroupfs; with a parent of the user's; systemd; on a host with systemd, rootless.
            ("/docker/ID", Some(Docker)),
            ("/docker/ID/init.scope", Some(Docker)),
            ("/actions_job/ID", None),
            ("/system.slice/docker-ID.scope", Some(Docker)),
            (
                "/system.slice/docker-ID.scope/user.slice/user-1000.slice/session-1.scope",
                Some(Docker),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-ID.scope",
                Some(Docker),
            ),
            // ECS.
            ("/ecs/my-cluster/0d3ff5f5e1f94e61a6d4c1c0a0c0a0c0/ID", None),
            // nerdctl: systemd, cgroupfs in containerd's namespace `default`.
            ("/system.slice/nerdctl-ID.scope", Some(Containerd)),
            ("/default/ID", None),
            // Podman: as root with crun and with runc, rootless, in a unit's own cgroup, cgroupfs.
            ("/machine.slice/libpod-ID.scope/container", Some(Podman)),
            ("/machine.slice/libpod-ID.scope", Some(Podman)),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                Some(Podman),
            ),
            ("/system.slice/web.service/libpod-payload-ID", Some(Podman)),
            ("/libpod_parent/libpod-ID", Some(Podman)),
            ("/machine.slice/machine-libpod_pod_INNER.slice/libpod-ID.scope", Some(Podman)),
        ] {
            expect(pattern, Some((ID, runtime, None)));
        }
    }

    #[test]
    fn containers_of_pods() {
        use Runtime::{Containerd, Crio, Docker};
        let systemd = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_D.slice/";
        for (pattern, runtime, pod_uid) in [
            (format!("{systemd}cri-containerd-ID.scope"), Some(Containerd), UID),
            (format!("{systemd}crio-ID.scope"), Some(Crio), UID),
            (format!("{systemd}crio-ID.scope/container"), Some(Crio), UID),
            (format!("{systemd}docker-ID.scope"), Some(Docker), UID),
            // A guaranteed pod has no folder of its class.
            (
                "/kubepods.slice/kubepods-podU_D.slice/cri-containerd-ID.scope".to_owned(),
                Some(Containerd),
                UID,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podSTATIC.slice/crio-ID.scope"
                    .to_owned(),
                Some(Crio),
                STATIC,
            ),
            // cgroupfs: who runs it is not told, but by CRI-O.
            ("/kubepods/burstable/podUID/ID".to_owned(), None, UID),
            ("/kubepods/podUID/ID".to_owned(), None, UID),
            ("/kubepods/besteffort/podSTATIC/ID".to_owned(), None, STATIC),
            ("/kubepods/besteffort/podUID/crio-ID".to_owned(), Some(Crio), UID),
            // A kubelet that asks systemd, with a runtime that does not.
            (
                "/system.slice/containerd.service/kubepods-burstable-podU_D.slice:cri-containerd:ID"
                    .to_owned(),
                Some(Containerd),
                UID,
            ),
            // Seen from a cgroup namespace: in another pod of the same class.
            ("/../../kubepods-burstable-podU_D.slice/cri-containerd-ID.scope".to_owned(), Some(Containerd), UID),
            ("/../../podUID/ID".to_owned(), None, UID),
        ] {
            expect(&pattern, Some((ID, runtime, Some(pod_uid))));
        }
        // In the tracer's own pod.
        expect("/../cri-containerd-ID.scope", Some((ID, Some(Containerd), None)));
    }

    #[test]
    fn innermost_of_nested_containers_is_told() {
        use Runtime::{Containerd, Docker};
        // kind: a node is a container of Docker.
        let node = "/system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice/";
        let kind = format!(
            "{node}kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_D.slice/cri-containerd-INNER.scope"
        );
        expect(&kind, Some((INNER, Some(Containerd), Some(UID))));
        expect(
            "/docker/ID/kubelet/kubepods/besteffort/podUID/INNER",
            Some((INNER, None, Some(UID))),
        );
        // What runs on the node, but in no pod.
        expect("/docker/ID/system.slice/kubelet.service", Some((ID, Some(Docker), None)));
        expect("/docker/ID/kubelet/kubepods/podUID", Some((ID, Some(Docker), None)));
        // Docker in a pod.
        let inner = "/kubepods/burstable/podUID/ID/docker/INNER";
        expect(inner, Some((INNER, Some(Docker), Some(UID))));
        let pods = format!("/kubepods/pod{STATIC}/ID/kubepods/podUID/INNER");
        expect(&pods, Some((INNER, None, Some(UID))));
    }

    #[test]
    fn what_is_in_no_container() {
        for pattern in [
            "",
            "/",
            "//",
            "/init.scope",
            "/user.slice/user-1000.slice/session-3.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods/burstable/podUID/crio-conmon-ID",
            // A pod, but no container of it.
            "/kubepods/burstable/podUID",
            // Units for the host's mounts of a container.
            "/system.slice/var-lib-docker-containers-ID-shm.mount",
            "/system.slice/run-docker-netns-4fa6e0f0c678.mount",
            "/system.slice/docker-ID.slice/x",
        ] {
            expect(pattern, None);
        }
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        let (short, long) = (&ID[1..], format!("{ID}0"));
        for name in [short, &long, &ID.to_uppercase(), &format!("{}g", &ID[1..]), "", "-", ":"] {
            for pattern in ["/docker/{}", "/docker-{}.scope", "/crio-{}", "/x:docker:{}"] {
                expect(&pattern.replace("{}", name), None);
            }
        }
        for uid in [&UID[1..], &UID.replace('-', ""), &UID.to_uppercase(), "", "--", "../../etc"] {
            let pods = [format!("/kubepods/pod{uid}/ID"), format!("/kubepods-pod{uid}.slice/ID")];
            // But for the hash of a static pod.
            let expected = (uid.len() == 32).then_some(uid);
            pods.iter().for_each(|pod| expect(pod, Some((ID, None, expected))));
        }
    }

    #[test]
    fn bytes_that_are_no_text_name_nothing_and_hide_nothing() {
        let hostile = [b"/docker/".as_slice(), ID.as_bytes(), b"/\xff\xfe/\x1b[2J\n"].concat();
        assert_eq!(Container::of_cgroup(&hostile).map(|found| found.id), Some(ID));
        let hostile = [b"/docker-\xff".as_slice(), ID.as_bytes()].concat();
        assert_eq!(Container::of_cgroup(&hostile), None);
    }

    #[test]
    fn path_without_end_is_looked_at_in_part() {
        let below = |folders| path("/docker/ID") + &"/x".repeat(folders);
        assert!(Container::of_cgroup(below(MAX_DEPTH - 1).as_bytes()).is_some());
        assert_eq!(Container::of_cgroup(below(MAX_DEPTH).as_bytes()), None);
    }

    #[test]
    fn names_and_labels_are_those_that_kubernetes_has() {
        for name in ["a", "web-7d4b.example", "0", &"a".repeat(253)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a/b", "\u{e9}", "a\n", &"a".repeat(254)] {
            assert!(!is_name(name), "{name}");
        }
        for name in ["app", "app.kubernetes.io/name", "A_b.c", &format!("x/{}", "a".repeat(63))] {
            assert!(is_label_name(name), "{name}");
        }
        for name in ["", "/a", "a/", "a/b/c", "A/b", "-a", "a b", &"a".repeat(64)] {
            assert!(!is_label_name(name), "{name}");
        }
        for (value, is_one) in [("", true), ("v1.2_x", true), ("\x1b[2J", false), ("a,b", false)] {
            assert_eq!(is_label_value(value), is_one, "{value:?}");
        }
    }

    #[test]
    fn words_are_those_of_the_contract() {
        let (path, inner) = (path("/kubepods/podUID/crio-ID"), path("/docker/ID"));
        let crio = serde_json::to_value(Container::of_cgroup(path.as_bytes())).unwrap();
        assert_eq!(crio, serde_json::json!({ "id": ID, "runtime": "cri-o", "pod_uid": UID }));
        let docker = serde_json::to_value(Container::of_cgroup(inner.as_bytes())).unwrap();
        assert_eq!(docker, serde_json::json!({ "id": ID, "runtime": "docker", "pod_uid": null }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(path: Vec<u8>) {
            let _ = Container::of_cgroup(&path);
        }

        /// Paths that are made of what real ones are made of, in any order.
        #[test]
        fn whatever_is_told_stands_in_the_path(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "/", "-", ":", ".scope", ".slice", "docker", "crio", "libpod", "pod", "kubepods",
                    "cri-containerd", ID, INNER, UID, STATIC, "..", "\u{e9}",
                ]),
                0..12,
            ),
        ) {
            let path = parts.concat();
            if let Some(Container { id, runtime: _, pod_uid }) = Container::of_cgroup(path.as_bytes()) {
                prop_assert!(is_id(id) && path.contains(id));
                if let Some(uid) = pod_uid {
                    prop_assert!(is_pod_uid(&uid) && path.replace('_', "-").contains(&uid));
                }
            }
        }
    }
}
