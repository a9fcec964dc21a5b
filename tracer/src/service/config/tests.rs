//! Whole configurations: what is read, what is refused, and how that is told.

use std::{fs, path::Path, time::Duration};

use proptest::prelude::*;

use super::{file::write_trusted, *};
use crate::lineage::{FindingKind, Remedy, Rules};

/// The file that comes with tracer: every key at its default.
const EXAMPLE: &str = include_str!("../../../../deploy/tracer.toml");
/// All keys in words.
const REFERENCE: &str = include_str!("../../../../docs/config.md");
/// A key that is none, and not nearly one.
const UNKNOWN: &str = "xxxxxxxxxxxxxxxxxxxxxxxx";

fn read(text: &str) -> Result<Config, ConfigError> {
    document::config(Path::new("/etc/tracer/tracer.toml"), text)
}

/// `line:column: what` of each problem.
fn problems(text: &str) -> Vec<String> {
    told(read(text))
}

fn told(read: Result<Config, ConfigError>) -> Vec<String> {
    match read {
        Err(ConfigError::Wrong(problems)) => {
            let told = problems.iter().map(ToString::to_string);
            told.map(|line| line.replace("/etc/tracer/tracer.toml:", "")).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_text_is_the_default() {
    assert_eq!(read("").unwrap(), Config::default());
}

#[test]
fn example_is_the_default() {
    assert_eq!(read(EXAMPLE).unwrap(), Config::default());
}

/// Lines of the example that are commented out begin with a `#` and no space after it.
#[test]
fn what_the_example_comments_out_can_be_put_in() {
    let put_in = |line: &str| match line.strip_prefix('#') {
        Some(code) if !code.starts_with([' ', '#']) => code.to_owned(),
        _ => line.to_owned(),
    };
    let text = EXAMPLE.lines().map(put_in).collect::<Vec<_>>().join("\n");
    // Files of rules that are not there.
    let text = text.replace("rules = [\"more-rules.toml\"]", "");
    let config = read(&text).unwrap();
    assert_eq!(config.sinks.len(), 3);
    assert_eq!(config.api.group, Some(0));
    let named: Vec<_> = config.rules.rules().agent_names().map(str::to_owned).collect();
    assert!(named.contains(&"mybot".to_owned()));
}

/// Keys of a text, as `table.key`, those that are commented out too.
fn keys(text: &str) -> Vec<String> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_start_matches('[').split(']').next().unwrap());
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            keys.push(format!("{table}{key}"));
        }
    }
    keys
}

/// What serde says of a key that is none lists those that are.
fn known_in(text: &str) -> Vec<String> {
    let error = problems(text).remove(0);
    let (_, list) = error.split_once("known here are ").unwrap();
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn example_and_reference_have_every_key() {
    let known = keys(EXAMPLE);
    for type_of_sink in ["file", "stdout", "webhook"] {
        let text = format!("[[sink]]\ntype = '{type_of_sink}'\n{UNKNOWN} = 1");
        for key in known_in(&text) {
            assert!(known.contains(&format!("sink.{key}")), "{key}");
        }
    }
    for table in
        ["thresholds", "kernel", "redaction", "log", "api", "metrics", "history", "kubernetes"]
    {
        for key in known_in(&format!("[{table}]\n{UNKNOWN} = 1")) {
            assert!(known.contains(&format!("{table}.{key}")), "{table}.{key}");
        }
    }
    for name in known_in(&format!("{UNKNOWN} = 1")) {
        let is_there = |key: &String| *key == name || key.starts_with(&format!("{name}."));
        assert!(known.iter().any(is_there), "{name}");
    }
    let is_of_rules =
        |key: &str| key.split('.').next().is_some_and(|it| Rules::TABLES.contains(&it));
    for key in known.iter().filter(|key| !is_of_rules(key)) {
        let name = key.rsplit('.').next().unwrap();
        assert!(REFERENCE.contains(&format!("`{name}`")), "docs/config.md: {key}");
    }
}

#[test]
fn every_key_is_taken() {
    let config = read(
        r#"
        on_leak = "dry-run"
        [thresholds]
        grace = "5s"
        zombie_after = "0s"
        init_zombie_after = "1m"
        stuck_after = "1m 30s"
        [kernel]
        max_processes = 1000
        ring_bytes = "1MiB"
        pin = false
        pin_path = "/sys/fs/bpf/other"
        journal = "/var/lib/other"
        [redaction]
        enabled = false
        [log]
        format = "json"
        level = "warn"
        [api]
        socket = "/run/t/a"
        group = "root"
        announcements = "/run/t/b"
        [metrics]
        listen = "[::1]:1"
        [history]
        path = "/h.db"
        max_age = "2d"
        max_size = 1000000
        [kubernetes]
        enabled = true
        api_server = "https://10.0.0.1:6443"
        token_file = "/token"
        ca_file = "/ca.crt"
        node = "node-1"
        labels = ["team"]
        [[sink]]
        type = "file"
        path = "/var/log/tracer.jsonl"
        max_size = "1MiB"
        keep = 0
        [[sink]]
        type = "stdout"
        only = ["zombie", "survivor", "zombie"]
        events = ["finding"]
        [[sink]]
        type = "webhook"
        url = "https://hooks.example/T0/B0"
        secret_file = "hook.key"
        queue_path = "/var/lib/tracer/q"
        queue_max_size = "1GiB"
        timeout = "3s"
        events = ["invocation"]
        [cleanup]
        survivor = "term"
        [[agent]]
        name = "mybot"
        executables = ["mybot"]
        "#,
    )
    .unwrap();
    let Config {
        rules,
        on_leak,
        thresholds,
        kernel,
        redacts,
        log,
        api,
        metrics,
        history,
        sinks,
        kubernetes,
    } = config;
    assert_eq!(on_leak, OnLeak::DryRun);
    let seconds = Duration::from_secs;
    assert_eq!((thresholds.grace, thresholds.zombie_after), (seconds(5), seconds(0)));
    assert_eq!((thresholds.init_zombie_after, thresholds.stuck_after), (seconds(60), seconds(90)));
    let pin_path = "/sys/fs/bpf/other".into();
    let journal = "/var/lib/other".into();
    let expected =
        Kernel { max_processes: 1000, ring_bytes: 1 << 20, pin: false, pin_path, journal };
    assert_eq!(kernel, expected);
    assert!(!redacts);
    assert_eq!(log, Log { format: LogFormat::Json, level: log::LevelFilter::Warn });
    let [socket, announcements] = ["/run/t/a", "/run/t/b"].map(Into::into);
    assert_eq!(api, Api { socket, group: Some(0), announcements });
    assert_eq!(metrics, Some("[::1]:1".parse().unwrap()));
    let max_age = seconds(2 * 24 * 60 * 60);
    assert_eq!(history, Some(History { path: "/h.db".into(), max_age, max_size: 1_000_000 }));
    let Kubernetes { enabled, api_server, token_file, ca_file, node, labels } = kubernetes;
    assert_eq!((enabled, node.as_deref()), (Asked::On, Some("node-1")));
    assert_eq!(api_server.as_ref().map(Endpoint::as_str), Some("https://10.0.0.1:6443"));
    assert_eq!([token_file, ca_file], ["/token", "/ca.crt"].map(|path| Some(path.into())));
    assert!(labels.globs().is_match("team") && !labels.globs().is_match("app.kubernetes.io/name"));
    let [file, stdout, webhook] = &sinks[..] else { panic!("{sinks:?}") };
    let path = "/var/log/tracer.jsonl".into();
    assert_eq!(file.target, Target::File { path, max_size: 1 << 20, keep: 0 });
    assert_eq!(file.filter, Filter::default());
    assert_eq!(stdout.target, Target::Stdout);
    let findings = vec![FindingKind::Zombie, FindingKind::Survivor];
    assert_eq!(stdout.filter, Filter { findings, invocations: false });
    assert_eq!(webhook.filter, Filter { findings: Vec::new(), invocations: true });
    let Target::Webhook(Webhook { url, secret_file, queue_path, queue_max_size, timeout }) =
        &webhook.target
    else {
        panic!("{webhook:?}")
    };
    assert_eq!(url.as_str(), "https://hooks.example/T0/B0");
    assert_eq!(secret_file.as_deref(), Some(Path::new("/etc/tracer/hook.key")));
    assert_eq!(queue_path, Path::new("/var/lib/tracer/q"));
    assert_eq!((*queue_max_size, *timeout), (1 << 30, seconds(3)));
    let rules = rules.rules();
    assert_eq!(rules.treatment(FindingKind::Survivor, None).0.remedy, Remedy::Term);
    assert_eq!(rules.agent_names().last(), Some("mybot"));
    assert!(rules.agent_names().count() > 3, "the built-in ones stay");
}

#[test]
fn things_are_turned_off() {
    for text in ["[metrics]\nlisten = ''", "[metrics]\nenabled = false"] {
        assert_eq!(read(text).unwrap().metrics, None);
    }
    assert_eq!(read("[history]\nenabled = false").unwrap().history, None);
}

#[test]
fn unknown_keys_are_told_with_their_place_and_what_is_meant() {
    for (text, said) in [
        ("on_leek = 'kill'", "1:1: unknown key on_leek: did you mean on_leak?"),
        ("\n[agnet]", "2:2: unknown key agnet: did you mean agent?"),
        ("[[sinks]]", "1:3: unknown key sinks: did you mean sink?"),
        ("[thresholds]\n  grce = '1s'", "2:3: unknown key grce: did you mean grace?"),
        ("[redaction]\nrules = true", "2:1: rules stands before the first [table]"),
        ("[cleanup]\non_leak = 'kill'", "2:1: on_leak stands before the first [table]"),
        ("[cleanup]\nsurvivors = 'kill'", "2:1: unknown key survivors: did you mean survivor?"),
        (
            "[[agent]]\nname = 'x'\n[agent.cleanup]\nzombi = 'nudge'",
            "4:1: unknown key zombi: did you mean zombie?",
        ),
        ("[redaction]\npatterns = []", "2:1: unknown key patterns: known here are enabled"),
        ("[[sink]]\ntype = 'stdout'\nonli = []", "3:1: unknown key onli: did you mean only?"),
        ("\"\\u001b[31m\" = 1\n", "1:1: unknown key \\x1b[31m: known here are"),
    ] {
        let told = problems(text);
        assert!(told.len() == 1 && told[0].starts_with(said), "{text}: {told:?}");
    }
}

#[test]
fn wrong_values_are_told_with_their_place_and_why() {
    for (text, said) in [
        ("on_leak = 'kil'", "1:11: unknown value \"kil\": did you mean kill?"),
        ("on_leak = true", "1:11: "),
        ("[thresholds]\ngrace = 2", "2:9: invalid type: integer `2`, expected a time"),
        ("[thresholds]\ngrace = '-2s'", "2:9: \"-2s\": a time cannot be negative"),
        ("[thresholds]\nstuck_after = '0s'", "2:15: \"0s\": it has to be more than nothing"),
        ("thresholds = 5", "1:14: invalid type"),
        ("[kernel]\nmax_processes = 15", "2:17: from 16 to 16777216 can be tracked"),
        ("[kernel]\nmax_processes = -1", "2:17: "),
        ("[kernel]\nring_bytes = 5000", "2:14: the size of a ring is a power of two"),
        ("[kernel]\nring_bytes = '8GiB'", "2:14: the size of a ring is a power of two"),
        ("[kernel]\npin_path = 'x'", "2:12: \"x\": an absolute path is wanted"),
        ("[kernel]\njournal = 'x'", "2:11: \"x\": an absolute path is wanted"),
        ("[kernel]\npin = 'yes'", "2:7: invalid type: string \"yes\", expected a boolean"),
        ("[log]\nlevel = 'warning'", "2:9: unknown value \"warning\": did you mean warn?"),
        ("[log]\nformat = 'xml'", "2:10: unknown value \"xml\": known here are text, json"),
        ("[api]\ngroup = 'no such group'", "2:9: \"no such group\": there is no such group"),
        ("[api]\nsocket = '/a'\nannouncements = '/a'", "3:17: socket and announcements"),
        (
            "[api]\nsocket = '/run/tracer/announce.sock'",
            "2:10: socket and announcements cannot be at the same path",
        ),
        ("[metrics]\nlisten = ':9464'", "2:10: not an address and a port"),
        ("[metrics]\nlisten = 'localhost:9464'", "2:10: not an address and a port"),
        ("[history]\nmax_size = 5", "2:12: "),
        ("[history]\nmax_size = '512'", "2:12: \"512\": a file needs 64KiB at least"),
        ("[history]\nmax_age = '0d'", "2:11: \"0d\": it has to be more than nothing"),
        ("[kubernetes]\nnode = 'a/../b'", "2:8: the name of a node"),
        ("[kubernetes]\nenabled = 'on'", "2:11: invalid value: string \"on\", expected \"auto\""),
        ("[kubernetes]\napi_server = 'http://10.0.0.1'", "2:14: the token and all names"),
        ("[kubernetes]\nlabels = ['[']", "2:11: error parsing glob"),
        ("[sink]\ntype = 'stdout'", "1:1: sink is a list of tables: write [[sink]]"),
        ("sink = [1]", "1:9: a sink is a table"),
        ("[[sink]]", "1:1: type is missing: known here are file, stdout, webhook"),
        ("[[sink]]\ntype = 'fiel'", "2:8: unknown type \"fiel\": did you mean file?"),
        ("[[sink]]\ntype = 1", "2:8: type is a string"),
        ("[[sink]]\ntype = 'file'", "1:1: path is missing"),
        ("[[sink]]\ntype = 'stdout'\nurl = 'http://x'", "3:1: unknown key url"),
        ("[[sink]]\ntype = 'webhook'\nurl = 'x'", "3:7: \"x\": a URL begins with"),
        ("[[sink]]\ntype = 'file'\npath = '/x'\nkeep = 1001", "4:8: at most 1000 files"),
        ("[[sink]]\ntype = 'stdout'\nonly = []", "3:8: it names no kind"),
        ("[[sink]]\ntype = 'stdout'\nevents = []", "3:10: it names nothing"),
        ("[[sink]]\ntype = 'stdout'\nonly = ['zombies']", "3:9: unknown value \"zombies\": did"),
        ("[[sink]]\ntype = 'stdout'\n[[sink]]\ntype = 'stdout'", "3:1: another sink writes to"),
        ("rules = ['/no/such/file']", "1:10: failed to read /no/such/file: No such file"),
        ("rules = '/x'", "1:9: invalid type"),
        ("a = ", "1:5: "),
        ("a = 1\na = 2", "2:1: duplicate key"),
    ] {
        let told = problems(text);
        assert!(told.len() == 1 && told[0].starts_with(said), "{text}: {told:?}");
    }
}

#[test]
fn rules_that_cannot_be_used_are_told_with_their_place() {
    for (text, said) in [
        ("[[agent]]\nexecutables = ['x']", "1:1: name is missing"),
        ("# x\n[[agent]]\nname = 'x y'", "2:1: parse agent rules: \"x y\" is no name"),
        ("[[agent]]\nname = 'a'\n[[agent]]\nname = 'b'\nexecutables = ['[']", "3:1: parse agent"),
        ("[agent]\nname = 'x'", "1:1: invalid type: map, expected a sequence"),
        ("[cleanup]\nzombie = 'kill'", "1:1: parse rules of cleanup: kill is nothing to do"),
        ("[cleanup]\nterm_timeout = 5", "2:16: invalid type"),
        ("[cleanup]\nsurvivor = 'kil'", "2:12: unknown value \"kil\": did you mean kill?"),
        ("[[keep]]\nreason = 'x'", "1:1: parse rules: [[keep]] needs"),
        ("[[redact]]\npattern = '('", "1:1: use the pattern \"(\""),
        ("[[redact]]\npattern = 1", "2:11: invalid type"),
    ] {
        let told = problems(text);
        assert!(told.len() == 1 && told[0].starts_with(said), "{text}: {told:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "on_leak = 'kil'\n\
                [thresholds]\ngrace = 1\nzombi_after = '1s'\n\
                [[agent]]\nname = 'x y'\n\
                [[agent]]\nname = 5\nexecutable = []\n\
                [[sink]]\ntype = 'webhook'\nurl = 5\ntimeout = 1\n\
                [nonsense]\n[metrics]\nlisten = '0.0.0.0:1'\n";
    let places: Vec<_> =
        problems(text).iter().map(|told| told.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        places,
        ["1:11", "3:9", "4:1", "5:1", "8:8", "9:1", "12:7", "13:11", "14:2", "16:10"]
    );
}

#[test]
fn there_is_an_end_to_what_is_told() {
    let text: String = (0..5000).map(|n| format!("key{n} = 1\n")).collect();
    assert_eq!(problems(&text).len(), MOST_PROBLEMS);
    let text: String = "[[agent]]\nnam = 1\n".repeat(5000);
    assert_eq!(problems(&text).len(), MOST_PROBLEMS);
    assert!(problems(&format!("{} = 1", "k".repeat(100_000)))[0].len() < 1000);
}

#[test]
fn metrics_for_others_have_to_be_allowed() {
    for address in ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "[::ffff:10.1.2.3]:9464"] {
        let text = format!("[metrics]\nlisten = '{address}'");
        let told = problems(&text);
        assert!(told[0].contains("allow_remote = true"), "{address}: {told:?}");
        let config = read(&format!("{text}\nallow_remote = true")).unwrap();
        assert_eq!(config.metrics, Some(address.parse().unwrap()));
    }
    for address in ["127.0.0.1:9464", "127.9.9.9:1", "[::1]:9464", "[::ffff:127.0.0.1]:9464"] {
        assert!(read(&format!("[metrics]\nlisten = '{address}'")).is_ok(), "{address}");
    }
}

#[test]
fn files_of_rules_come_before_the_configurations_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tracer.toml");
    let more = folder.path().join("more.toml");
    write_trusted(
        &path,
        b"rules = ['more.toml']\n[[agent]]\nname = 'b'\n[cleanup]\norphan = 'term'\n",
    );
    write_trusted(&more, b"[[agent]]\nname = 'a'\n[cleanup]\norphan = 'kill'\nstuck = 'kill'\n");
    let config = Config::load(&path).unwrap();
    let rules = config.rules.rules();
    let names: Vec<_> = rules.agent_names().collect();
    assert!(names.ends_with(&["a", "b"]), "{names:?}");
    let remedy = |kind| rules.treatment(kind, None).0.remedy;
    assert_eq!(remedy(FindingKind::Orphan), Remedy::Term);
    assert_eq!(remedy(FindingKind::Stuck), Remedy::Kill);
    // What is wrong in it is told with its own name and place; it is as much to be trusted.
    write_trusted(&more, b"\n[[agent]]\nname = 5\n");
    let error = told(Config::load(&path)).join("\n");
    assert!(error.contains("more.toml:3:8: invalid type"), "{error}");
    write_trusted(&more, b"on_leak = 'kill'");
    let error = told(Config::load(&path)).join("\n");
    assert!(error.contains("more.toml:1:1: on_leak"), "{error}");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&more, fs::Permissions::from_mode(0o666)).unwrap();
    let error = told(Config::load(&path)).join("\n");
    assert!(error.contains("tracer.toml:1:10: ") && error.contains("chmod go-w"), "{error}");
}

#[test]
fn comments_and_order_of_tables_are_no_change() {
    let one = "[cleanup]\nsurvivor = 'term' # why\n[[keep]]\nexecutables = ['vite']\n[log]\n";
    let other = "# other\n[[keep]]\nexecutables = [\"vite\"]\n[cleanup]\nsurvivor = 'term'\n";
    assert_eq!(read(one).unwrap(), read(other).unwrap());
}

#[test]
fn queues_of_webhooks_are_their_own() {
    let webhook = |url: &str| format!("[[sink]]\ntype = 'webhook'\nurl = '{url}'\n");
    let two = read(&(webhook("http://a/") + &webhook("http://b/"))).unwrap();
    let queue = |sink: &Sink| match &sink.target {
        Target::Webhook(webhook) => webhook.queue_path.clone(),
        other => panic!("{other:?}"),
    };
    assert_ne!(queue(&two.sinks[0]), queue(&two.sinks[1]));
    assert_eq!(queue(&two.sinks[0]), queue(&read(&webhook("http://a/")).unwrap().sinks[0]));
    let told = problems(&(webhook("http://a/") + &webhook("http://a/")));
    assert!(told[0].starts_with("4:1: another sink has this queue"), "{told:?}");
}

#[test]
fn secrets_are_left_out_unless_that_is_turned_off() {
    let rules = "[[redact]]\npattern = 'xyzzy'\n";
    let redacted = |text: &str| read(text).unwrap().redactor().text(b"say xyzzy").into_owned();
    assert_eq!(redacted(rules), b"say [redacted]");
    assert_eq!(redacted(&format!("{rules}[redaction]\nenabled = false")), b"say xyzzy");
}

#[test]
fn token_goes_over_the_loopback_or_by_tls_alone() {
    for server in ["https://api.example", "http://127.0.0.1:1", "http://[::1]:1/base"] {
        let text = format!("[kubernetes]\napi_server = '{server}'");
        assert!(read(&text).is_ok(), "{server}");
    }
    // A name is what a resolver says.
    for server in ["http://localhost:1", "http://api.example", "http://127.0.0.1.example"] {
        let told = problems(&format!("[kubernetes]\napi_server = '{server}'"));
        assert!(told[0].contains("use https://"), "{server}: {told:?}");
    }
}

/// Parts of configurations, right and wrong, in any order.
fn fragments() -> impl Strategy<Value = String> {
    let lines: Vec<&'static str> =
        EXAMPLE.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).collect();
    let wrong = prop_oneof![
        Just("[[sink]]"),
        Just("[sink]"),
        Just("type = 'webhook'"),
        Just("agent.name = 1"),
        Just("agent = [{}, {name = 'x', cleanup = {zombie = 3}}]"),
        Just("rules = ['.', '/dev/null', '']"),
        Just("[a.b.c]"),
        Just("cleanup = 1979-05-27"),
        Just("max_processes = 340282366920938463463374607431768211456"),
        Just("grace = nan"),
        Just("'\u{e9}\u{202e}' = '''"),
        Just("]"),
    ];
    let line = prop_oneof![
        6 => proptest::sample::select(lines).prop_map(str::to_owned),
        2 => wrong.prop_map(str::to_owned),
        1 => "\\PC{0,20}",
        1 => "[a-z_]{1,8} = (\"[^\"]{0,8}\"|[0-9xe.+-]{1,8}|\\[.{0,8}\\])",
    ];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// A configuration, or at least one problem whose place is in the text.
    #[test]
    fn no_text_makes_the_parser_panic(text in prop_oneof![fragments(), any::<String>()]) {
        match read(&text) {
            Ok(config) => prop_assert!(!config.rules.rules().markers().is_empty()),
            Err(ConfigError::Wrong(problems)) => {
                prop_assert!((1..=MOST_PROBLEMS).contains(&problems.len()));
                for problem in problems {
                    prop_assert!(!problem.text.is_empty());
                    prop_assert!(!problem.to_string().chars().any(char::is_control));
                    if let Some(Position { line, column }) = problem.at {
                        let found = text.split('\n').nth(line - 1);
                        let length = found.map(|line| line.chars().count());
                        prop_assert!(length.is_some_and(|length| column <= length + 1));
                    }
                }
            }
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
