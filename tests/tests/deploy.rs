//! What is in `deploy/` is right by the tools of those who read it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{binary, deploy, skip};

/// Exposure, of 10, above which `systemd-analyze security` may not see the unit. What it holds against it beside
/// capabilities: that it runs as root, sees every process and has a network.
const EXPOSURE: &str = "3.0";

/// What checks manifests against the API's schemas, which it brings along.
const VALIDATOR: &str = "kubernetes-validate==1.37.0";
/// The libraries that `gcr.io/distroless/cc-debian12` has.
const LIBRARIES: [&str; 5] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];

/// Whether the test can be run.
fn is_here() -> bool {
    let is_here = deploy::is_here();
    if !is_here {
        skip("no checkout here");
    }
    is_here
}

/// Runs a tool. `None`, and the test is skipped, where it is not there.
fn tool(command: &mut Command, named: &str) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(&format!("no {named} here"));
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

#[track_caller]
fn expect_success(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{said}{complained}", output.status);
    said + &complained
}

/// The unit, with the path of the tracer under test.
fn unit() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = fs::read_to_string(deploy::path("systemd/tracer.service")).expect("the unit");
    let ours = binary::tracer().to_str().expect("a path of UTF-8");
    assert_eq!(unit.matches("ExecStart=/usr/local/bin/tracer ").count(), 1);
    let unit = unit.replace("ExecStart=/usr/local/bin/tracer ", &format!("ExecStart={ours} "));
    let path = folder.path().join("tracer.service");
    fs::write(&path, unit).expect("a file of ours");
    (folder, path)
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    let output = tool(command.args(arguments).arg(unit), "systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unrecognized option") || said.contains("Unknown command verb") {
        skip(&format!("this systemd-analyze is too old for {arguments:?}"));
        return None;
    }
    Some(output)
}

#[test]
fn systemd_understands_the_unit() {
    if !is_here() {
        return;
    }
    let (_folder, unit) = unit();
    let Some(output) = systemd_analyze(&["verify", "--man=no"], &unit) else { return };
    let said = expect_success(&output);
    // What it does not know it warns of and ignores.
    let about: Vec<_> = said.lines().filter(|line| line.contains("tracer.service")).collect();
    assert!(about.is_empty(), "{said}");
}

#[test]
fn systemd_finds_the_unit_little_exposed() {
    if !is_here() {
        return;
    }
    let (_folder, unit) = unit();
    let threshold = format!("--threshold={}", EXPOSURE.replace('.', ""));
    let arguments = ["security", "--offline=true", "--no-pager", &threshold];
    let Some(output) = systemd_analyze(&arguments, &unit) else { return };
    let said = expect_success(&output);
    assert!(said.contains("Overall exposure level"), "{said}");
}

/// Python with the validator; made once, by one test process at a time. The reason where it cannot be
/// had here.
fn validator() -> Result<PathBuf, String> {
    let folder = binary::target_dir().join("deploy-venv");
    fs::create_dir_all(binary::target_dir()).expect("the target folder");
    let lock = fs::File::create(folder.with_extension("lock")).expect("a file to lock");
    lock.lock().expect("a lock");
    let (python, made) = (folder.join("bin/python"), folder.join("made-for"));
    if fs::read_to_string(&made).is_ok_and(|made| made == VALIDATOR) {
        return Ok(python);
    }
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default().to_owned();
        if output.status.success() { Ok(()) } else { Err(last) }
    };
    run(Command::new(binary::python()).args(["-m", "venv", "--clear"]).arg(&folder))
        .map_err(|why| format!("no virtual environment: {why}"))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", VALIDATOR];
    run(Command::new(&python).args(pip))
        .map_err(|why| format!("nothing to be had from PyPI: {why}"))?;
    fs::write(made, VALIDATOR).expect("a file of ours");
    Ok(python)
}

/// What kustomize makes of a folder. `None`, and the test is skipped, where there is none that knows
/// components.
fn kustomized(folder: &Path) -> Option<String> {
    let tools = [&["kustomize", "build"][..], &["kubectl", "kustomize"]];
    let output = tools.iter().find_map(|tool| {
        let output = Command::new(tool[0]).args(&tool[1..]).arg(folder).output().ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        (!said.contains("unknown field \"components\"")).then_some(output)
    });
    let Some(output) = output else {
        skip("no kustomize here that knows components");
        return None;
    };
    expect_success(&output);
    Some(String::from_utf8(output.stdout).expect("manifests of UTF-8"))
}

/// Writes to a command, and reads what it says.
fn piped(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it is piped");
    child.wait_with_output().expect("our child")
}

/// The objects of manifests.
fn objects(python: &Path, manifests: &str) -> Vec<Value> {
    let convert =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let output = piped(Command::new(python).args(["-c", convert]), manifests);
    expect_success(&output);
    serde_json::from_slice(&output.stdout).expect("JSON of Python's")
}

/// What is deployed, as objects. `None`, and the test is skipped, where the tools are lacking.
fn built(folder: &Path) -> Option<Vec<Value>> {
    let manifests = kustomized(folder)?;
    match validator() {
        Ok(python) => Some(objects(&python, &manifests)),
        Err(reason) => {
            skip(&reason);
            None
        }
    }
}

#[track_caller]
fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind} in {objects:#?}"));
    assert!(found.next().is_none(), "more than one {kind}");
    object
}

/// The one container of a pod's `spec`.
fn container(spec: &Value) -> &Value {
    let containers = spec["containers"].as_array().expect("a list");
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// The host's folder that a path in the container is in.
fn host_folder<'a>(spec: &'a Value, path: &str) -> Option<&'a str> {
    let mounts = container(spec)["volumeMounts"].as_array().expect("a list").iter();
    let holds = |mount: &&Value| {
        Path::new(path).starts_with(mount["mountPath"].as_str().expect("a string"))
    };
    let mount =
        mounts.filter(holds).max_by_key(|mount| mount["mountPath"].as_str().map(str::len))?;
    let mut volumes = spec["volumes"].as_array().expect("a list").iter();
    volumes.find(|volume| volume["name"] == mount["name"])?["hostPath"]["path"].as_str()
}

/// The base with the component that needs more than Kubernetes itself, in a folder outside of it.
fn with_pod_monitor() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let depth = fs::canonicalize(folder.path()).expect("a folder of ours").components().count() - 1;
    // Folders must be named relatively.
    let kubernetes = "../".repeat(depth)
        + deploy::path("kubernetes").to_str().expect("a path of UTF-8").trim_matches('/');
    let kustomization = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         resources: [{kubernetes}/base]\ncomponents: [{kubernetes}/components/pod-monitor]\n"
    );
    fs::write(folder.path().join("kustomization.yaml"), kustomization).expect("a file of ours");
    folder
}

#[test]
fn manifests_are_what_kubernetes_wants() {
    if !is_here() {
        return;
    }
    for (folder, objects) in [("base", 6), ("overlays/privileged", 6), ("example-agent", 1)] {
        let Some(manifests) = kustomized(&deploy::path("kubernetes").join(folder)) else { return };
        let python = match validator() {
            Ok(python) => python,
            Err(reason) => return skip(&reason),
        };
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("manifests.yaml");
        fs::write(&path, manifests).unwrap();
        let validator = python.with_file_name("kubernetes-validate");
        let said =
            expect_success(&Command::new(validator).arg("--strict").arg(&path).output().unwrap());
        // A kind that it does not know it warns of, and goes on.
        assert_eq!(said.matches(" passed for ").count(), objects, "{said}");
    }
}

#[test]
fn pods_have_the_capabilities_of_the_unit_and_no_more() {
    if !is_here() {
        return;
    }
    let wanted = deploy::capabilities();
    let wanted = wanted.iter().map(|name| name.strip_prefix("CAP_").unwrap()).collect();

    let Some(base) = built(&deploy::path("kubernetes/base")) else { return };
    let spec = &of_kind(&base, "DaemonSet")["spec"]["template"]["spec"];
    let may = &container(spec)["securityContext"];
    let added = may["capabilities"]["add"].as_array().unwrap().iter();
    assert_eq!(added.map(|name| name.as_str().unwrap()).collect::<BTreeSet<&str>>(), wanted);
    assert_eq!(may["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(
        (&may["privileged"], &may["allowPrivilegeEscalation"]),
        (&false.into(), &false.into())
    );
    assert_eq!((&may["readOnlyRootFilesystem"], &spec["hostPID"]), (&true.into(), &true.into()));

    let Some(overlay) = built(&deploy::path("kubernetes/overlays/privileged")) else { return };
    let spec = &of_kind(&overlay, "DaemonSet")["spec"]["template"]["spec"];
    let may = &container(spec)["securityContext"];
    assert_eq!((&may["privileged"], may.get("capabilities")), (&true.into(), None));
}

#[test]
fn token_lists_and_watches_pods_and_nothing_else() {
    if !is_here() {
        return;
    }
    let Some(base) = built(&deploy::path("kubernetes/base")) else { return };
    let role = of_kind(&base, "ClusterRole");
    let may = serde_json::json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}
    ]);
    assert_eq!(role["rules"], may);
    let (account, binding) =
        (of_kind(&base, "ServiceAccount"), of_kind(&base, "ClusterRoleBinding"));
    let subject = serde_json::json!([{
        "kind": "ServiceAccount",
        "name": account["metadata"]["name"], "namespace": account["metadata"]["namespace"],
    }]);
    assert_eq!(binding["subjects"], subject);
    assert_eq!(binding["roleRef"]["kind"], "ClusterRole");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    // No other pod of this account has a token without asking for it.
    assert_eq!(account["automountServiceAccountToken"], false);
    let spec = &of_kind(&base, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], true);
    assert_eq!(spec["serviceAccountName"], account["metadata"]["name"]);
    let mut variables = container(spec)["env"].as_array().unwrap().iter();
    let node = variables.find(|variable| variable["name"] == "NODE_NAME").unwrap();
    assert_eq!(node["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
}

#[test]
fn agents_reach_the_announcement_socket_and_no_other() {
    if !is_here() {
        return;
    }
    let Some(base) = built(&deploy::path("kubernetes/base")) else { return };
    let Some(agent) = built(&deploy::path("kubernetes/example-agent")) else { return };
    let config = of_kind(&base, "ConfigMap")["data"]["tracer.toml"].as_str().unwrap();
    let socket = |key: &str| {
        let value = config.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        value.unwrap().trim_matches('"')
    };
    let daemon = &of_kind(&base, "DaemonSet")["spec"]["template"]["spec"];
    let pod = &of_kind(&agent, "Pod")["spec"];
    let variables = container(pod)["env"].as_array().unwrap();
    let told = variables.iter().find(|variable| variable["name"] == "TRACER_SOCKET").unwrap();

    let announcements = socket("announcements");
    assert_eq!(told["value"], announcements);
    let shared = host_folder(daemon, announcements);
    assert!(shared.is_some(), "not in a folder of the host: {announcements}");
    assert_eq!(host_folder(pod, announcements), shared);
    // Root in an agent's container is root to a socket.
    assert_eq!(host_folder(daemon, socket("socket")), None);
}

#[test]
fn monitor_finds_the_port_of_the_pods() {
    if !is_here() {
        return;
    }
    let folder = with_pod_monitor();
    let Some(objects) = built(folder.path()) else { return };
    let monitor = &of_kind(&objects, "PodMonitor")["spec"];
    let template = &of_kind(&objects, "DaemonSet")["spec"]["template"];
    let labels = monitor["selector"]["matchLabels"].as_object().unwrap();
    assert!(!labels.is_empty());
    for (name, value) in labels {
        assert_eq!(template["metadata"]["labels"].get(name), Some(value), "{name}");
    }
    let port = &monitor["podMetricsEndpoints"][0]["port"];
    assert_eq!(*port, container(&template["spec"])["ports"][0]["name"]);
}

#[test]
fn daemon_understands_the_configuration_of_the_pods() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A checkout's files may be writable for a group, which the daemon does not trust.
    let path = folder.path().join("tracer.toml");
    fs::write(&path, fs::read(deploy::path("kubernetes/base/tracer.toml")).unwrap()).unwrap();
    let mut check = Command::new(binary::tracer());
    expect_success(&check.args(["config", "check"]).arg(&path).output().unwrap());
}

#[test]
fn image_has_every_library_that_tracer_is_linked_with() {
    let mut readelf = Command::new("readelf");
    let Some(output) = tool(readelf.args(["--dynamic", "--wide"]).arg(binary::tracer()), "readelf")
    else {
        return;
    };
    let said = expect_success(&output);
    let needed = said.lines().filter(|line| line.contains("(NEEDED)"));
    let needed: Vec<_> = needed.filter_map(|line| line.split(['[', ']']).nth(1)).collect();
    assert!(needed.contains(&"libc.so.6"), "{said}");
    for library in needed {
        assert!(LIBRARIES.contains(&library), "{library}");
    }
}
