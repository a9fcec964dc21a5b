//! tracer in a container, with the capabilities of `deploy/` and no more, and agents in others.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tracer_tests::api_server::{ApiServer, pod};
use tracer_tests::facts::{self, Facts};
use tracer_tests::scrape::{self, METRICS};
use tracer_tests::{binary, daemon, deploy, proc, skip, sys};

/// Where a program is in a container.
const BIN: &str = "/usr/local/bin";
const PINS: &str = "/sys/fs/bpf";
const CGROUPS: &str = "/sys/fs/cgroup";

/// A container of runc: a root file system with one program and the libraries that it needs.
struct Container {
    id: String,
    cgroup: String,
    folder: TempDir,
    runc: Option<Child>,
}

impl Container {
    fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            cgroup: format!("/docker-{id}.scope"),
            folder: tempfile::tempdir().expect("a temporary folder"),
            runc: None,
        }
    }

    /// One in a pod with this UID.
    fn of_pod(id: &str, pod_uid: &str) -> Self {
        let slice = format!("kubepods-pod{}.slice", pod_uid.replace('-', "_"));
        let mut container = Self::new(id);
        container.cgroup = format!("/{slice}/cri-containerd-{id}.scope");
        container
    }

    /// A folder of the host's that the container gets.
    fn shared(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).expect("a folder");
        // Its owner is root, those in the container may be others.
        for folder in [self.folder.path(), &path] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
                .expect("a folder of ours");
        }
        path
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.folder.path().join("state")).stdin(Stdio::null());
        runc
    }

    /// Starts a program as this user. `namespaces`: of its own.
    fn start(
        &mut self,
        command: &[&str],
        program: &Path,
        user: u32,
        namespaces: &[&str],
        more: &More,
    ) {
        let More { capabilities, environment, mounts, pids } = more;
        let root = self.folder.path().join("root");
        copy_libraries(program, &root);
        let mut all = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
            bind(program, command[0], "ro"),
        ];
        all.extend(mounts.iter().cloned());
        let namespaces: Vec<_> = namespaces.iter().map(|kind| json!({"type": kind})).collect();
        let config = json!({
            "ociVersion": "1.0.0",
            "hostname": "container",
            "root": {"path": root, "readonly": true},
            "mounts": all,
            "process": {
                "args": command, "cwd": "/", "env": environment, "noNewPrivileges": true,
                "user": {"uid": user, "gid": user},
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": self.cgroup,
                "resources": pids.map(|limit| json!({"pids": {"limit": limit}})),
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            },
        });
        fs::write(self.folder.path().join("config.json"), config.to_string())
            .expect("a file of ours");
        let log = fs::File::create(self.log()).expect("a log");
        let mut run = self.runc();
        run.arg("run").arg("--bundle").arg(self.folder.path()).arg(&self.id);
        let run = run.stdout(log.try_clone().expect("a descriptor")).stderr(log).spawn();
        self.runc = Some(run.expect("runc is here"));
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).expect("its log")
    }

    fn until_said(&mut self, text: &str) {
        proc::until(&format!("the container says {text:?}"), || {
            let said = self.said();
            let ended = self.runc.as_mut().expect("it runs").try_wait().expect("runc is our child");
            assert!(ended.is_none(), "the container has ended: {ended:?}: {said}");
            said.contains(text).then_some(())
        });
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Its first process gets SIGKILL, and so do all others of its PID namespace.
        let _deleted =
            self.runc().args(["delete", "--force"]).arg(&self.id).stderr(Stdio::null()).status();
        if let Some(runc) = &mut self.runc {
            let _ended = runc.wait();
        }
        // runc leaves the pod's cgroup, in each hierarchy. Another container may be in it still.
        let pod = Path::new(&self.cgroup).parent().and_then(|pod| pod.strip_prefix("/").ok());
        for pod in pod.into_iter().filter(|pod| !pod.as_os_str().is_empty()) {
            let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
            for hierarchy in hierarchies.map(|entry| entry.path()).chain([CGROUPS.into()]) {
                let _gone = fs::remove_dir(hierarchy.join(pod));
            }
        }
    }
}

/// What a container has beside its program.
#[derive(Default)]
struct More {
    capabilities: Vec<String>,
    environment: Vec<String>,
    mounts: Vec<Value>,
    /// Most processes.
    pids: Option<u32>,
}

fn bind(source: &Path, destination: &str, mode: &str) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", mode]})
}

/// Copies the libraries that a program is linked with to where it looks for them.
fn copy_libraries(program: &Path, root: &Path) {
    let listed = Command::new("ldd").arg(program).output().expect("ldd tells libraries");
    let listed = String::from_utf8(listed.stdout).expect("ldd tells libraries");
    let libraries =
        listed.lines().filter_map(|line| line.split(' ').find(|word| word.trim().starts_with('/')));
    for library in libraries.map(str::trim) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a folder for libraries"))
            .expect("a folder for libraries");
        fs::copy(library, to).expect("a library");
    }
}

/// A configuration, and what is pinned for it, which goes with it.
struct Pinned(TempDir);

impl Pinned {
    fn config(&self) -> PathBuf {
        self.0.path().join("tracer.toml")
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut unpin = Command::new(binary::tracer());
        let unpinned = unpin.args(["daemon", "--unpin", "--config"]).arg(self.config()).status();
        if !std::thread::panicking() {
            assert!(unpinned.is_ok_and(|status| status.success()), "unpin");
        }
    }
}

/// Why no container can be run here; `None`: it can.
fn lack() -> Option<&'static str> {
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("our mounts");
    let has_pins =
        mounts.lines().any(|mount| mount.contains(" /sys/fs/bpf ") && mount.contains(" - bpf "));
    let checks = [
        (deploy::is_here(), "no checkout here"),
        (has("runc"), "no runc here"),
        (has("ldd"), "no ldd here"),
        (has_pins, "no BPF file system at /sys/fs/bpf"),
        (proc::is_in_initial_pid_namespace(), "these tests run in a container themselves"),
    ];
    checks.iter().find(|(is_so, _)| !is_so).map(|(_, reason)| *reason)
}

/// A tracer in a container, and what it tells.
struct Boxed {
    state: PathBuf,
    // In this order: what is pinned goes after who pinned it.
    tracer: Container,
    _pinned: Pinned,
}

impl Boxed {
    /// Starts one with the capabilities of the manifest and the host's PID namespace, and others of its own.
    fn start(mark: u64, namespaces: &[&str], config: &str) -> Self {
        Self::start_in(Container::new(&format!("{mark:064x}")), mark, namespaces, config)
    }

    fn start_in(mut tracer: Container, mark: u64, namespaces: &[&str], config: &str) -> Self {
        let metrics =
            if config.contains("[metrics]") { "" } else { "[metrics]\nenabled = false\n" };
        let pinned = Pinned(tempfile::tempdir().expect("a temporary folder"));
        let text = format!(
            "[thresholds]\nzombie_after = \"300ms\"\n\
             [kernel]\npin_path = \"{PINS}/tracer-test-box-{mark}\"\n\
             [api]\nsocket = \"/run/tracer/control/tracer.sock\"\n\
             {metrics}\
             [[sink]]\ntype = \"file\"\npath = \"/var/lib/tracer/events.jsonl\"\n{config}"
        );
        fs::write(pinned.config(), text).expect("a file of ours");
        let state = tracer.shared("lib");
        let more = More {
            capabilities: deploy::capabilities(),
            environment: vec!["TRACER_LOG=info".to_owned()],
            mounts: vec![
                bind(Path::new(PINS), PINS, "rw"),
                json!({"destination": CGROUPS, "type": "bind", "source": CGROUPS, "options": ["rbind", "ro"]}),
                bind(pinned.0.path(), "/etc/tracer", "ro"),
                bind(&state, "/var/lib/tracer", "rw"),
                json!({"destination": "/run/tracer", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]}),
            ],
            pids: None,
        };
        let program = format!("{BIN}/tracer");
        let command = [program.as_str(), "daemon", "--config", "/etc/tracer/tracer.toml"];
        tracer.start(&command, binary::tracer(), 0, namespaces, &more);
        tracer.until_said("traces the host");
        Self { state, tracer, _pinned: pinned }
    }

    /// The finding of this zombie.
    fn zombie(&self, pid: sys::Pid) -> Value {
        let opened = proc::until("the zombie is told", || {
            let lines = fs::read_to_string(self.state.join("events.jsonl")).ok()?;
            let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut events = whole
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
            events.find(|event| daemon::is_about(event, pid, "zombie"))
        });
        opened["finding"].clone()
    }
}

/// Starts a parent in a container that lets a child stand, as nobody.
fn leaking(agent: &mut Container, environment: Vec<String>) -> Facts {
    leaking_within(agent, environment, None)
}

fn leaking_within(agent: &mut Container, mut environment: Vec<String>, pids: Option<u32>) -> Facts {
    let told = agent.shared("facts");
    let facts = Facts::listen(&told, HashMap::new());
    fs::set_permissions(facts.path(), fs::Permissions::from_mode(0o777)).expect("a file of ours");
    environment.push(format!("{}=/facts/facts", facts::ENV));
    let mounts = vec![bind(&told, "/facts", "ro")];
    let more = More { environment, mounts, pids, ..More::default() };
    let program = format!("{BIN}/workload");
    let command = [program.as_str(), "never-waits", "deep=yes"];
    let own = ["pid", "mount", "uts", "ipc", "network"];
    agent.start(&command, binary::workload(), 65_534, &own, &more);
    facts.wait_held("standing", sys::patience()).expect("a zombie that stands");
    facts
}

#[test]
fn leak_in_another_container_is_found_with_the_capabilities_of_the_manifest() {
    if let Some(reason) = lack() {
        return skip(reason);
    }
    let mark = u64::from(std::process::id());
    let tracer = Boxed::start(mark, &["mount", "uts", "ipc", "network"], "");
    let mut agent = Container::new(&format!("{:064x}", mark << 32));
    let facts = leaking(&mut agent, vec!["TRACER_AGENT=boxed".to_owned()]);
    let fact = |name: &str| facts.wait_told(name, sys::patience()).expect("a fact");
    let (zombie, parent) = (fact("zombie"), fact("parent"));
    assert_ne!(zombie.pid, zombie.own_pid, "no PID namespace of its own");

    let finding = tracer.zombie(zombie.pid);
    assert_eq!(finding["agent"]["name"], "boxed", "{finding:#}");
    assert_eq!(finding["parent"]["pid"], parent.pid, "{finding:#}");
    assert_eq!(finding["cause"]["code"], "parent_never_waits", "{finding:#}");
    assert_eq!(finding["process"]["namespace_pid"], zombie.own_pid, "{finding:#}");
    let container = json!({"id": agent.id, "runtime": "docker", "pod_uid": null, "pod": null});
    assert_eq!(finding["process"]["container"], container, "{finding:#}");
    facts.release("standing");
}

/// Where tracer is in a cgroup namespace of its own, as in a pod, paths of cgroups look otherwise.
#[test]
fn container_of_an_agent_s_pod_is_its_agent_for_a_tracer_in_a_container() {
    if let Some(reason) = lack() {
        return skip(reason);
    }
    let mark = u64::from(std::process::id()) << 8;
    let uid = format!("7d7d1f3b-0a6f-4c3f-9a6b-{mark:012x}");
    let server = ApiServer::of_node("node-1");
    server.apply(pod("reviewer-7d4b", &uid, &[("app", "reviewer")]));
    let config = format!(
        "[kubernetes]\napi_server = {:?}\nnode = \"node-1\"\n\
         [[agent]]\nname = \"reviewer\"\npod_labels = {{ app = \"reviewer\" }}\n",
        server.url()
    );
    // The network of the host, where the API server of this test is.
    let tracer = Boxed::start(mark, &["mount", "uts", "ipc", "cgroup"], &config);
    server.until_watched();
    let mut agent = Container::of_pod(&format!("{:064x}", mark << 32), &uid);
    let facts = leaking(&mut agent, Vec::new());
    let fact = |name: &str| facts.wait_told(name, sys::patience()).expect("a fact");
    let finding = tracer.zombie(fact("zombie").pid);
    assert_eq!(finding["agent"]["name"], "reviewer", "{finding:#}");
    assert_eq!(finding["agent"]["pid"], fact("root").pid, "{finding:#}");
    let container = &finding["process"]["container"];
    assert_eq!(
        (&container["pod_uid"], &container["pod"]["name"]),
        (&uid.into(), &"reviewer-7d4b".into())
    );
    facts.release("standing");
}

/// Both are in the cgroup of one pod: to a tracer in a cgroup namespace of its own the other's is `/../other`.
#[test]
fn limit_of_another_container_s_pids_is_told_by_a_tracer_in_a_container() {
    /// Nobody else's.
    const LIMIT: u32 = 4_321;
    if let Some(reason) = lack() {
        return skip(reason);
    }
    let mark = u64::from(std::process::id()) << 16;
    let uid = format!("7d7d1f3b-0a6f-4c3f-9a6b-{mark:012x}");
    let tracer = Container::of_pod(&format!("{mark:064x}"), &uid);
    // The network of the host, where this test is.
    let namespaces = ["mount", "uts", "ipc", "cgroup"];
    let mut tracer = Boxed::start_in(tracer, mark, &namespaces, METRICS);
    tracer.tracer.until_said("metrics at http://");
    let address = scrape::address_in(&tracer.tracer.said());
    let mut agent = Container::of_pod(&format!("{:064x}", mark << 32), &uid);
    let environment = vec!["TRACER_AGENT=limited".to_owned()];
    let facts = leaking_within(&mut agent, environment, Some(LIMIT));
    let limits = fs::read_dir(CGROUPS).expect("cgroups").flatten().map(|entry| entry.path());
    let limit = limits.chain([CGROUPS.into()]).find_map(|hierarchy| {
        fs::read_to_string(hierarchy.join(agent.cgroup.trim_start_matches('/')).join("pids.max"))
            .ok()
    });
    if limit.is_none() {
        return skip("runc limits no pids here");
    }
    let told = |name: &str| {
        let series = format!("tracer_cgroup_pids_{name}{{agent=\"limited\"}}");
        scrape::value(&scrape::get(&address, "/metrics").1, &series)
    };
    let most = proc::until("the limit is told", || told("max"));
    assert!((most - f64::from(LIMIT)).abs() < 0.5, "{most}");
    let used = told("used").expect("it is told with the limit");
    assert!((2.0..f64::from(LIMIT)).contains(&used), "{used}");
    facts.release("standing");
}
