//! Pods of a node, asked of an API server that speaks the real protocol and does what can go wrong.

use std::fs;
use std::path::Path;

use globset::{Glob, GlobSet};
use serde_json::json;
use tracer::service::pods::{Pods, PodsOptions, PodsStatus};
use tracer_tests::api_server::{ApiServer, Asked, Certified, pod};
use tracer_tests::proc;

const NODE: &str = "node-1";

/// The UID of a pod.
fn uid(number: usize) -> String {
    format!("7d7d1f3b-0a6f-4c3f-9a6b-{number:012x}")
}

fn options(server: &ApiServer) -> PodsOptions {
    let told = Glob::new("app*").expect("a glob");
    PodsOptions {
        api_server: server.url().to_owned(),
        token_file: None,
        ca_file: None,
        node: NODE.to_owned(),
        labels: GlobSet::builder().add(told).build().expect("globs"),
    }
}

fn watching(options: &PodsOptions) -> Pods {
    Pods::start(options).expect("a thread")
}

fn until(what: &str, pods: &Pods, is_so: impl Fn(PodsStatus) -> bool) {
    proc::until(&format!("{what}: {:?}", pods.status()), || is_so(pods.status()).then_some(()));
}

fn until_known(pods: &Pods, number: usize) {
    proc::until(&format!("pod {number} is known"), || pods.find(&uid(number)).map(drop));
}

#[test]
fn all_pages_of_a_list_are_known_and_a_watch_follows() {
    let server = ApiServer::of_node(NODE);
    for number in 0..5 {
        server.apply(pod(&format!("web-{number}"), &uid(number), &[("app", "web"), ("x", "y")]));
    }
    let pods = watching(&options(&server));
    assert_eq!(server.until_watched(), "105");
    until("all is well", &pods, |status| status.is_up);
    assert_eq!(pods.status(), PodsStatus { known: 5, is_up: true, failures: 0, left_out: 0 });
    let found = pods.find(&uid(3)).expect("it was listed");
    assert_eq!((&*found.pod.name, &*found.pod.namespace), ("web-3", "agents"));
    assert_eq!(found.pod.labels, [("app".to_owned(), "web".to_owned())].into());
    let asked = server.asked();
    let tokens: Vec<_> = asked.iter().map(|asked| asked.query.get("continue")).collect();
    let [first, second] = ["105:2", "105:4"].map(str::to_owned);
    assert_eq!(tokens, [None, Some(&first), Some(&second), None]);
    // Of this node alone, and metadata alone; the server in this test wants both.
    for Asked { query, accept, authorization } in asked {
        assert_eq!(query["fieldSelector"], "spec.nodeName=node-1");
        assert!(accept.contains("PartialObjectMetadata"), "{accept}");
        assert_eq!(authorization, None);
    }
}

#[test]
fn what_happens_is_known_as_it_happens() {
    let server = ApiServer::of_node(NODE);
    let pods = watching(&options(&server));
    server.until_watched();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let changed = || runtime.block_on(pods.changed());
    server.apply(pod("web", &uid(1), &[]));
    let added = changed();
    assert_eq!((added.len(), &*added[0].uid), (1, &*uid(1)));
    server.apply(pod("web", &uid(1), &[("app", "web")]));
    assert_eq!(changed()[0].pod.labels["app"], "web");
    server.delete("web");
    // The next of the same name, as a stateful set has it.
    server.apply(pod("web", &uid(2), &[]));
    assert_eq!(&*changed()[0].uid, uid(2));
    // Findings come after the end of a pod.
    assert_eq!(pods.find(&uid(1)).expect("kept for a while").pod.name, "web");
    assert_eq!(pods.status().failures, 0);
}

#[test]
fn connection_that_is_cut_is_resumed_from_the_last_version() {
    let server = ApiServer::of_node(NODE);
    let pods = watching(&options(&server));
    assert_eq!(server.until_watched(), "100");
    server.apply(pod("one", &uid(1), &[]));
    until_known(&pods, 1);
    let seen = server.asked().len();
    server.cut();
    // While nobody watches.
    server.apply(pod("two", &uid(2), &[]));
    until_known(&pods, 2);
    let again = server.until_asked("a watch", seen, |asked| asked.watches_from().is_some());
    assert_eq!(again.watches_from(), Some("101"));
    assert_eq!(server.asked().len(), seen + 1, "no list");
    until("all is well", &pods, |status| status.is_up);
}

#[test]
fn bookmark_is_where_a_watch_that_ended_goes_on() {
    let server = ApiServer::of_node(NODE);
    let pods = watching(&options(&server));
    server.until_watched();
    let seen = server.asked().len();
    server.bookmark();
    server.end_watches();
    let again = server.until_asked("a watch", seen, |asked| asked.watches_from().is_some());
    assert_eq!(again.watches_from(), Some("110"));
    assert_eq!(pods.status().failures, 0, "that is how it goes");
}

#[test]
fn version_that_the_server_has_forgotten_leads_to_a_new_list() {
    let server = ApiServer::of_node(NODE);
    let pods = watching(&options(&server));
    server.until_watched();
    server.apply(pod("one", &uid(1), &[]));
    until_known(&pods, 1);
    // Away for longer than it remembers.
    server.refuse(Some(500));
    server.cut();
    until("a failure", &pods, |status| status.failures > 0 && !status.is_up);
    server.delete("one");
    server.apply(pod("two", &uid(2), &[]));
    server.forget();
    let seen = server.asked().len();
    server.refuse(None);
    until_known(&pods, 2);
    let list = server.until_asked("a list", seen, |asked| asked.watches_from().is_none());
    assert_eq!(list.query.get("continue"), None);
    until("all is well", &pods, |status| status.is_up);
}

#[test]
fn refusal_is_a_failure_until_there_is_none() {
    for status in [401, 403, 429, 503] {
        let server = ApiServer::of_node(NODE);
        server.apply(pod("one", &uid(1), &[]));
        server.refuse(Some(status));
        let pods = watching(&options(&server));
        until("a failure", &pods, |status| status.failures > 0);
        assert_eq!((pods.status().is_up, pods.status().known), (false, 0), "{status}");
        server.refuse(None);
        until_known(&pods, 1);
        until("all is well", &pods, |status| status.is_up);
    }
}

#[test]
fn token_is_read_anew_when_it_was_replaced() {
    let server = ApiServer::of_node(NODE);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    // As the kubelet does it.
    let replace = |text: &str| {
        fs::write(folder.path().join("new"), text).unwrap();
        fs::rename(folder.path().join("new"), &token).unwrap();
    };
    replace("first\n");
    server.expect_token("first");
    let pods = watching(&PodsOptions { token_file: Some(token.clone()), ..options(&server) });
    server.until_watched();
    let seen = server.asked().len();
    replace("second");
    server.expect_token("second");
    server.end_watches();
    let again = server.until_asked("a watch", seen, |asked| asked.watches_from().is_some());
    assert_eq!(again.authorization.as_deref(), Some("Bearer second"));
    // The old one is refused before the new one is there.
    server.expect_token("third");
    server.cut();
    until("a failure", &pods, |status| status.failures > 1 && !status.is_up);
    replace("third");
    until("all is well", &pods, |status| status.is_up);
    fs::remove_file(&token).unwrap();
    let seen = server.asked().len();
    server.cut();
    let before = pods.status().failures;
    until("another failure", &pods, |status| status.failures > before + 1 && !status.is_up);
    assert_eq!(server.asked().len(), seen, "asked without a token");
    replace("third");
    until("all is well", &pods, |status| status.is_up);
}

#[test]
fn nonsense_instead_of_a_list_is_a_failure_and_does_no_harm() {
    let wrong_types = json!({"metadata": {"resourceVersion": 7}, "items": "none"}).to_string();
    let deep = "[".repeat(1 << 20);
    let all = ["", "{", "\u{0}", "<html>", &*wrong_types, &*deep, "{\"items\": []}"];
    let all = all.map(|nonsense| {
        let server = ApiServer::of_node(NODE);
        server.apply(pod("one", &uid(1), &[]));
        server.answer_lists_with(Some(nonsense));
        let pods = watching(&options(&server));
        (server, pods, nonsense)
    });
    for (server, pods, nonsense) in &all {
        until(&format!("a failure of {nonsense:.20}"), pods, |status| status.failures > 0);
        assert!(!pods.status().is_up);
        server.answer_lists_with(None);
    }
    for (_, pods, _) in &all {
        until_known(pods, 1);
        until("all is well", pods, |status| status.is_up);
    }
}

#[test]
fn nonsense_among_what_happens_is_a_failure_and_does_no_harm() {
    let none_of_type = "{\"type\": \"NEW\", \"object\": {\"metadata\": {}}}\n";
    let all = ["nonsense\n", "{\"type\": \"ADDED\"}\n", none_of_type, "{\"type\": \"ERROR\"}\n"];
    let all = all.map(|nonsense| {
        let server = ApiServer::of_node(NODE);
        let pods = watching(&options(&server));
        (server, pods, nonsense)
    });
    for (server, pods, nonsense) in &all {
        server.until_watched();
        server.send(nonsense);
        until(&format!("a failure of {nonsense}"), pods, |status| status.failures > 0);
        server.apply(pod("one", &uid(1), &[]));
    }
    for (_, pods, _) in &all {
        until_known(pods, 1);
    }
}

#[test]
fn line_without_end_is_not_gathered() {
    let server = ApiServer::of_node(NODE);
    let pods = watching(&options(&server));
    server.until_watched();
    let part = "x".repeat(1 << 20);
    let before = pods.status().failures;
    for _ in 0..40 {
        server.send(&part);
    }
    until("a failure", &pods, |status| status.failures > before);
    server.apply(pod("one", &uid(1), &[]));
    until_known(&pods, 1);
}

#[test]
fn what_is_no_name_is_left_out() {
    let server = ApiServer::of_node(NODE);
    let (long, escape) = ("a".repeat(100_000), "\u{1b}]0;x\u{7}");
    server.apply(pod(&long, &uid(1), &[]));
    server.apply(pod(escape, &uid(2), &[]));
    server.apply(pod("no-uid", "../../etc", &[]));
    server.apply(pod(
        "web",
        &uid(3),
        &[("app", escape), ("app\n", "x"), ("apps", &long), ("app1", "ok")],
    ));
    let pods = watching(&options(&server));
    until_known(&pods, 3);
    until("all is well", &pods, |status| status.is_up);
    assert_eq!((pods.status().known, pods.status().left_out), (1, 3));
    let found = pods.find(&uid(3)).expect("it is known");
    assert_eq!(found.pod.labels, [("app1".to_owned(), "ok".to_owned())].into());
    assert_eq!(found.labels.len(), 1);
}

#[test]
fn server_is_known_by_its_certificate() {
    let (certified, other) = (Certified::new(), Certified::new());
    let server = ApiServer::with_tls(NODE, &certified);
    server.apply(pod("one", &uid(1), &[]));
    let folder = tempfile::tempdir().unwrap();
    let trusting = |name: &str, certified: &Certified| {
        let path = folder.path().join(name);
        fs::write(&path, certified.pem()).unwrap();
        PodsOptions { ca_file: Some(path), ..options(&server) }
    };
    let deceived = watching(&trusting("other", &other));
    until("a failure", &deceived, |status| status.failures > 0);
    assert!(server.asked().is_empty(), "told before it was known");
    let pods = watching(&trusting("own", &certified));
    until_known(&pods, 1);
    server.until_watched();
    assert!(deceived.find(&uid(1)).is_none());
}

#[test]
fn server_that_is_not_there_is_tried_again() {
    let server = ApiServer::of_node(NODE);
    server.apply(pod("one", &uid(1), &[]));
    let nowhere = PodsOptions { api_server: "http://127.0.0.1:1".to_owned(), ..options(&server) };
    let pods = watching(&nowhere);
    until("failures", &pods, |status| status.failures > 1);
    assert!(!pods.status().is_up);
    let no_file = Some(Path::new("/no/such/file").to_owned());
    let error = Pods::start(&PodsOptions { ca_file: no_file, ..options(&server) }).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}
