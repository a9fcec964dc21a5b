//! Agents that are known by where they run: in a cgroup, or in a container of a pod, that rules ask for.
//!
//! Of a cgroup, whoever is topmost in it is the agent. Of a container, its first process is, as long as
//! that lives; whatever is put into a container later, as probes and `kubectl exec` are, is none for that.
//!
//! Whoever sets a container up is in its cgroup before its first process is, and is not it.
//!
//! A container that begins may be there before its pod is known, or after. So it is looked when a process
//! executes something in a container, and when something becomes known of a pod.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::Arc,
};

use super::{Daemon, DaemonError};
use crate::{
    container::{Container, Labels},
    kernel::{cgroups::Cgroups, records},
    lineage::{Event, Pids, ProcessId, RecoveredProcess, Rules},
    node::{ProgramSeen, What},
    procfs::Procfs,
    service::pods::{Found, Pods},
};

/// Places, and first processes of containers, that are remembered. Beyond, all are forgotten.
const MOST: usize = 4096;
/// Names of programs that make containers.
const RUNTIMES: [&[u8]; 3] = [b"runc", b"crun", b"youki"];
/// What Kubernetes keeps a pod's namespaces with: in a container of its own, and nobody's agent.
const PAUSE: &[u8] = b"/pause";

/// Where processes are, as far as rules ask.
#[derive(Debug)]
pub(super) struct Places {
    ask_for_cgroups: bool,
    ask_for_pods: bool,
    cgroups: Option<Cgroups>,
    /// By id of cgroup v2.
    known: HashMap<u64, Rc<Place>>,
    /// Of containers of agents' pods, by their ids, the first process.
    firsts: HashMap<Box<str>, ProcessId>,
}

/// A cgroup.
#[derive(Debug)]
struct Place {
    path: Arc<[u8]>,
    container: Option<InPod>,
    /// A rule asks for it.
    is_agents: bool,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct InPod {
    id: Box<str>,
    pod_uid: Box<str>,
}

impl InPod {
    fn of(path: &[u8]) -> Option<Self> {
        let Container { id, pod_uid, .. } = Container::of_cgroup(path)?;
        Some(Self { id: id.into(), pod_uid: pod_uid?.into() })
    }
}

impl Places {
    pub(super) fn of(rules: &Rules, procfs: &Procfs) -> Self {
        let (ask_for_cgroups, ask_for_pods) = (rules.ask_for_cgroups(), rules.ask_for_pods());
        let cgroups = if ask_for_cgroups || ask_for_pods {
            let mounted = Cgroups::mounted(procfs);
            let cgroups =
                mounted.inspect_err(|error| log::warn!("failed to open cgroup v2: {error}"));
            cgroups.ok().flatten()
        } else {
            None
        };
        let (known, firsts) = (HashMap::new(), HashMap::new());
        Self { ask_for_cgroups, ask_for_pods, cgroups, known, firsts }
    }

    fn are_asked_for(&self) -> bool {
        self.ask_for_cgroups || self.ask_for_pods
    }

    /// Where a process was when it executed its program, or was forked: in the cgroup v2 with this id.
    ///
    /// A tracer in a cgroup namespace of its own cannot tell by the id, and on a host with cgroup v1 it says
    /// nothing. Then a container is known by where the process is now, if it has a PID namespace of its own:
    /// whoever sets a container up is moved into its cgroup as well, and has not.
    fn of_process(
        &mut self,
        rules: &Rules,
        procfs: &Procfs,
        id: u64,
        process: &RecoveredProcess,
    ) -> Option<Rc<Place>> {
        if !self.known.contains_key(&id)
            && let Some(path) = self.cgroups.as_mut().and_then(|cgroups| cgroups.path(id))
        {
            let is_agents = self.ask_for_cgroups && rules.know_cgroup(&path);
            let container = InPod::of(&path).filter(|_| self.ask_for_pods);
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(id, Rc::new(Place { path, container, is_agents }));
        }
        let known = self.known.get(&id).map(Rc::clone);
        let Pids { local, namespace, .. } = process.pids;
        let is_told = known.as_ref().is_some_and(|known| known.container.is_some());
        if is_told || !self.ask_for_pods || local == Some(namespace) {
            return known;
        }
        let dir = procfs.identify(local?, process.id).ok().flatten().map(|(dir, _)| dir);
        let path = dir.and_then(|dir| dir.cgroups().ok()?.telling);
        let container = path.as_deref().and_then(InPod::of);
        let (Some(path), true) = (path, container.is_some()) else { return known };
        let is_agents = known.is_some_and(|known| known.is_agents);
        Some(Rc::new(Place { path: path.into(), container, is_agents }))
    }
}

impl Daemon {
    /// A process was forked, or has executed something, somewhere: is it an agent for that?
    pub(super) fn look_at_place(&mut self, record: &[u8]) -> Result<(), DaemonError> {
        if !self.places.are_asked_for() {
            return Ok(());
        }
        let Some((id, cgroup, is_born)) = records::cgroup(record) else { return Ok(()) };
        let Some((process, ..)) = self.probes.procs().entry(id) else { return Ok(()) };
        let Some(place) = self.place(&process, cgroup) else { return Ok(()) };
        if place.is_agents {
            self.is_in_agents_cgroup(&process, is_born, &place)?;
        }
        // Of a container the first process executes something in it before anything else can happen.
        match &place.container {
            Some(container) if !is_born => self.executed_in(id, container),
            _ => Ok(()),
        }
    }

    fn executed_in(&mut self, id: ProcessId, container: &InPod) -> Result<(), DaemonError> {
        let is_first_there =
            self.places.firsts.get(&container.id).is_some_and(|first| {
                *first != id && self.probes.procs().lives(*first) == Some(true)
            });
        if is_first_there || self.node.run_of(id).is_some() {
            return Ok(());
        }
        let found = self.pods.as_ref().and_then(|pods| pods.find(&container.pod_uid));
        match found.filter(|found| self.rules.know_pod(&found.labels)) {
            Some(found) => self.look_into(&HashMap::from([(found.uid, found.labels)])),
            None => Ok(()),
        }
    }

    /// Something has become known of these pods.
    pub(super) fn pods_changed(&mut self, changed: &[Found]) -> Result<(), DaemonError> {
        let agents = changed.iter().filter(|found| self.rules.know_pod(&found.labels));
        let agents = agents.map(|found| (Arc::clone(&found.uid), Arc::clone(&found.labels)));
        self.look_into(&agents.collect())
    }

    /// Looks for agents wherever rules ask for.
    pub(super) fn look_at_places(&mut self) -> Result<(), DaemonError> {
        if self.places.ask_for_cgroups {
            for process in self.alive()? {
                let place = process.cgroup.and_then(|cgroup| self.place(&process, cgroup));
                if let Some(place) = place.filter(|place| place.is_agents) {
                    self.is_in_agents_cgroup(&process, false, &place)?;
                }
            }
        }
        let all = self.pods.as_ref().filter(|_| self.places.ask_for_pods);
        let all = all.map(Pods::all).unwrap_or_default();
        self.pods_changed(&all)
    }

    /// The first process of each container of these pods is an agent.
    fn look_into(&mut self, pods: &HashMap<Arc<str>, Arc<Labels>>) -> Result<(), DaemonError> {
        if pods.is_empty() {
            return Ok(());
        }
        let mut looked_at = HashSet::new();
        for process in self.alive()? {
            let place = process.cgroup.and_then(|cgroup| self.place(&process, cgroup));
            let Some(container) = place.and_then(|place| place.container.clone()) else { continue };
            let Some(labels) = pods.get(&*container.pod_uid) else { continue };
            if looked_at.contains(&container) {
                continue;
            }
            let RecoveredProcess { id, pids, exec_at, .. } = &process;
            let Some(program) = self.program(*id, pids.local, *exec_at) else { continue };
            if sets_containers_up(&program.exe) {
                continue;
            }
            looked_at.insert(container.clone());
            if self.places.firsts.len() >= MOST {
                self.places.firsts.clear();
            }
            self.places.firsts.insert(container.id, process.id);
            if !is_pause(&program) {
                let event = Event::InPod { process: process.id, labels: Arc::clone(labels) };
                self.is_agent_for_its_place(program, event)?;
            }
        }
        Ok(())
    }

    /// All that live, oldest first.
    fn alive(&self) -> Result<Vec<RecoveredProcess>, DaemonError> {
        let mut all = self.probes.procs().walk()?;
        all.retain(|process| process.exit.is_none());
        all.sort_unstable_by_key(|process| process.id.by_birth());
        Ok(all)
    }

    fn place(&mut self, process: &RecoveredProcess, cgroup: u64) -> Option<Rc<Place>> {
        let Self { places, rules, procfs, .. } = self;
        places.of_process(rules, procfs, cgroup, process)
    }

    /// Whoever is topmost in an agent's cgroup is the agent: who was born in it may have a forker that has
    /// moved there.
    fn is_in_agents_cgroup(
        &mut self,
        process: &RecoveredProcess,
        is_born: bool,
        place: &Place,
    ) -> Result<(), DaemonError> {
        let path = Arc::clone(&place.path);
        if self.node.run_of(process.id).is_some() {
            // Of a run: it knows who is above.
            self.node.handle(Event::InCgroup { process: process.id, is_born, path }, None);
            return Ok(());
        }
        let top = self.topmost(process, &path);
        let RecoveredProcess { id, pids, exec_at, .. } = top;
        let Some(program) = self.program(id, pids.local, exec_at) else { return Ok(()) };
        let event = Event::InCgroup { process: id, is_born: false, path };
        self.is_agent_for_its_place(program, event)
    }

    /// The oldest of those by whom it was forked, one after the other, that are in its agent's cgroup.
    fn topmost(&self, process: &RecoveredProcess, path: &[u8]) -> RecoveredProcess {
        let mut top = process.clone();
        while top.forker.start < top.id.start
            && let Some((above, ..)) = self.probes.procs().entry(top.forker)
            && above.exit.is_none()
            && let Some(local) = above.pids.local
            && let Ok(Some((dir, _))) = self.procfs.identify(local, above.id)
            && let Ok(paths) = dir.cgroups()
            && paths.unified.is_some_and(|found| self.rules.share_cgroup(&found, path))
        {
            top = above;
        }
        top
    }

    /// It is an agent, as `event` tells, if it belongs to no run; else that event is its run's to judge.
    fn is_agent_for_its_place(
        &mut self,
        program: ProgramSeen,
        event: Event<'_>,
    ) -> Result<(), DaemonError> {
        if self.node.run_of(program.process).is_none() {
            self.node.is_agent(program);
            self.adopt()?;
        }
        self.node.handle(event, None);
        Ok(())
    }

    /// Fills in the pods of what is told.
    pub(super) fn name_pods(&self, what: &mut What) {
        let Some(pods) = &self.pods else { return };
        match what {
            What::Finding(news) => pods.name(&mut news.finding.process),
            What::Opened(news) | What::Ended(news) => {
                let root = &mut news.invocation.root;
                if root.cgroup.is_none() {
                    root.cgroup = self.telling_cgroup(root.id, root.pids.local);
                }
                pods.name(root);
            }
        }
    }

    pub(super) fn telling_cgroup(&self, process: ProcessId, local: Option<u32>) -> Option<Vec<u8>> {
        let dir = self.procfs.identify(local?, process).ok().flatten()?.0;
        dir.cgroups().ok()?.telling
    }
}

/// Whether this is a runtime that has still to execute the container's own program: it may be in the
/// container's cgroup already.
fn sets_containers_up(exe: &[u8]) -> bool {
    let name = exe.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    // Runtimes execute a sealed copy of themselves, which has no path.
    RUNTIMES.contains(&name) || exe.starts_with(b"/memfd:")
}

fn is_pause(program: &ProgramSeen) -> bool {
    program.exe == PAUSE && program.args.split(|byte| *byte == 0).next() == Some(PAUSE)
}
