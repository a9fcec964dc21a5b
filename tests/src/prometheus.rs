//! A real Prometheus of the test's own: its port, its folder.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::stream::Collector;
use crate::{binary, proc, scrape, sys};

/// One that scrapes, and ends with this.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    address: String,
    output: Collector,
    _folder: TempDir,
}

/// Whether Prometheus and promtool are installed; the reason where they are not.
pub fn is_installed() -> Result<(), &'static str> {
    let is_there = ["prometheus", "promtool"].into_iter().all(binary::is_installed);
    if is_there { Ok(()) } else { Err("no prometheus here (Debian's package of that name)") }
}

/// Runs promtool in a folder: whether it is content, and what it said.
pub fn promtool(folder: &Path, args: &[&str], input: &Path) -> (bool, String) {
    let input = fs::File::open(input).unwrap_or_else(|e| panic!("{}: {e}", input.display()));
    let output = Command::new("promtool").args(args).current_dir(folder).stdin(input).output();
    let output = output.unwrap_or_else(|error| panic!("promtool: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

impl Prometheus {
    /// Scrapes this address every second, and evaluates these rules.
    #[must_use]
    pub fn scraping(target: &str, rules: &Path) -> Self {
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [{:?}]\n\
             scrape_configs:\n  - job_name: tracer\n    \
             static_configs: [{{ targets: [{target:?}] }}]\n",
            rules.display().to_string()
        );
        // Somebody else may take the port in between.
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::start(&config) {
                Ok(started) => return started,
                Err(said) => assert!(tries < 5, "prometheus does not start: {said}"),
            }
        }
    }

    fn start(config: &str) -> Result<Self, String> {
        let folder =
            tempfile::tempdir().unwrap_or_else(|error| panic!("temporary folder: {error}"));
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let address = free.unwrap_or_else(|error| panic!("a free port: {error}")).to_string();
        let (from, to) = Collector::pipe();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(to);
        // SAFETY: one system call, between fork and exec.
        unsafe { command.pre_exec(sys::die_with_parent) };
        let child = command.spawn();
        drop(command);
        let child = child.unwrap_or_else(|error| panic!("prometheus: {error}"));
        let output = Collector::start(vec![from]);
        let mut started = Self { child, address, output, _folder: folder };
        let is_ready = proc::until("prometheus answers", || {
            if started.child.try_wait().expect("wait for prometheus").is_some() {
                return Some(false);
            }
            let answer = scrape::asked(&started.address, "/-/ready");
            answer.is_ok_and(|(status, _)| status == 200).then_some(true)
        });
        if is_ready { Ok(started) } else { Err(started.said()) }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.output.so_far().concat()).into_owned()
    }

    /// What its API says: the field `data`.
    #[must_use]
    pub fn api(&self, path: &str) -> Value {
        let (status, body) = scrape::get(&self.address, path);
        assert_eq!(status, 200, "{path}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("its API speaks JSON");
        answer["data"].clone()
    }

    /// The value of the one series that a query gives; `None`: there is none.
    #[must_use]
    pub fn value(&self, query: &str) -> Option<f64> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let encoded = query.bytes().map(|byte| match byte {
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        });
        let path = format!("/api/v1/query?query={}", encoded.collect::<String>());
        let data = self.api(&path);
        let result = data["result"].as_array().expect("a vector");
        assert!(result.len() < 2, "{query}: {data:#}");
        let value = result.first()?["value"][1].as_str()?;
        Some(value.parse().expect("a number"))
    }

    /// Waits until this alert fires with these labels: the value that it fires for.
    #[track_caller]
    pub fn until_fires(&self, alert: &str, labels: &[(&str, &str)]) -> f64 {
        proc::until_within(3 * sys::patience(), alert, || {
            let data = self.api("/api/v1/alerts");
            let alerts = data["alerts"].as_array().expect("alerts");
            let is_it = |one: &&Value| {
                let has = |(name, value): &(&str, &str)| one["labels"][*name] == *value;
                one["labels"]["alertname"] == alert && labels.iter().all(has)
            };
            let fires = |one: &&Value| one["state"] == "firing";
            let value = alerts.iter().filter(is_it).find(fires)?["value"].as_str()?;
            Some(value.parse().expect("a number"))
        })
    }

    /// Waits until a query gives a series whose value is such.
    pub fn until(&self, query: &str, is_such: impl Fn(f64) -> bool) -> f64 {
        proc::until(query, || self.value(query).filter(|value| is_such(*value)))
    }
}

/// The same rules for a test that has seconds: only durations differ. What an alert has to last
/// (`for: 15m`) is 300 times shorter, what is looked back at (`[30m]`) 60 times, so that there is
/// time to see what has lasted.
#[must_use]
pub fn hurried(rules: &str) -> String {
    let mut hurried = String::with_capacity(rules.len());
    for line in rules.lines() {
        match line.trim_start().strip_prefix("for: ") {
            Some(span) => {
                let before = &line[..line.len() - span.len()];
                hurried += &format!("{before}{}ms", seconds(span) * 1000 / 300);
            }
            None => {
                let mut rest = line;
                while let Some((before, range)) = rest.split_once('[') {
                    let (span, after) = range.split_once(']').unwrap_or((range, ""));
                    match span.strip_suffix('m').map(str::parse::<u64>) {
                        Some(Ok(minutes)) => hurried += &format!("{before}[{minutes}s]"),
                        _ => hurried += &format!("{before}[{span}]"),
                    }
                    rest = after;
                }
                hurried += rest;
            }
        }
        hurried.push('\n');
    }
    hurried
}

/// Of `15m`, `1h`, `30s`.
fn seconds(span: &str) -> u64 {
    let (number, unit) = span.split_at(span.len() - 1);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        other => panic!("{span}: a unit {other:?}"),
    };
    number.parse::<u64>().unwrap_or_else(|error| panic!("{span}: {error}")) * unit
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            println!("prometheus said:\n{}", self.said());
        }
    }
}
