//! The core alone: `tracer/benches/core.rs`, a criterion benchmark, run and read.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::programs::Programs;

/// One history of a shape and size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Core {
    /// `deep`, `wide` or `churn`.
    pub(crate) shape: String,
    /// Live processes.
    pub(crate) live: u64,
    /// Bytes a live process; `None` for churn, whose live processes are those of `wide`.
    pub(crate) bytes: Option<u64>,
    /// What one event takes, ns: criterion's median, and its 95 % confidence interval.
    pub(crate) event_ns: f64,
    pub(crate) event_ns_95: (f64, f64),
}

/// Runs the benchmark. `quick`: each history once, unmeasured.
pub(crate) fn measure(programs: &Programs, quick: bool) -> Result<Vec<Core>> {
    let home = programs.file("criterion");
    let mut command = Command::new(&programs.core);
    command.args(if quick { &["--test"][..] } else { &["--bench", "--noplot"] });
    command.env("CRITERION_HOME", &home).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{command:?} failed ({}): {told}", output.status);
    }
    let bytes: Vec<_> = told.lines().filter_map(bytes_in).collect();
    if bytes.is_empty() {
        bail!("{command:?} tells no bytes a live process");
    }
    if quick { Ok(Vec::new()) } else { read(&home, &bytes) }
}

/// `core/deep/1000: 241 bytes a live process`: shape, size and bytes.
fn bytes_in(line: &str) -> Option<(&str, u64, u64)> {
    let (name, figure) = line.split_once(": ")?;
    let bytes = figure.strip_suffix(" bytes a live process")?;
    let (shape, live) = name.strip_prefix("core/")?.split_once('/')?;
    Some((shape, live.parse().ok()?, bytes.parse().ok()?))
}

/// What criterion keeps in its folder: `core/SHAPE/SIZE/new/{benchmark,estimates}.json`.
fn read(home: &Path, bytes: &[(&str, u64, u64)]) -> Result<Vec<Core>> {
    let mut all = Vec::new();
    for shape in ["deep", "wide", "churn"] {
        let folder = home.join("core").join(shape);
        let sizes = fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
        let mut of_shape = Vec::new();
        for size in sizes {
            let size = size?.path();
            let Some(live) = size.file_name().and_then(|name| name.to_str()?.parse().ok()) else {
                continue;
            };
            let of = |file: &str| -> Result<Value> {
                let file = size.join("new").join(file);
                let text =
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
                serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))
            };
            let (benchmark, estimates) = (of("benchmark.json")?, of("estimates.json")?);
            let known = bytes.iter().find(|known| (known.0, known.1) == (shape, live));
            let known = known.map(|&(_, _, bytes)| bytes);
            let core = core_of(shape, live, known, &benchmark, &estimates);
            of_shape.push(core.with_context(|| format!("{} is of no known form", size.display()))?);
        }
        of_shape.sort_unstable_by_key(|core| core.live);
        all.extend(of_shape);
    }
    Ok(all)
}

fn core_of(
    shape: &str,
    live: u64,
    bytes: Option<u64>,
    benchmark: &Value,
    estimates: &Value,
) -> Option<Core> {
    let events = benchmark["throughput"]["Elements"].as_f64()?;
    let median = &estimates["median"];
    let interval = &median["confidence_interval"];
    let event = |time: &Value| Some(time.as_f64()? / events);
    Some(Core {
        shape: shape.to_owned(),
        live,
        bytes,
        event_ns: event(&median["point_estimate"])?,
        event_ns_95: (event(&interval["lower_bound"])?, event(&interval["upper_bound"])?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_their_lines_only() {
        let line = "core/wide/32768: 242 bytes a live process";
        assert_eq!(bytes_in(line), Some(("wide", 32_768, 242)));
        assert_eq!(bytes_in("core/wide/32768         time:   [5.4 ms 5.9 ms 6.4 ms]"), None);
    }

    #[test]
    fn time_is_by_event() {
        let home = tempfile::tempdir().unwrap();
        for shape in ["deep", "wide", "churn"] {
            for size in ["1000", "32", "report"] {
                let new = home.path().join("core").join(shape).join(size).join("new");
                fs::create_dir_all(&new).unwrap();
                fs::write(new.join("benchmark.json"), r#"{"throughput":{"Elements":100}}"#)
                    .unwrap();
                let estimates = r#"{"median":{"point_estimate":5000.0,"confidence_interval":
                                    {"lower_bound":4000.0,"upper_bound":6000.0}}}"#;
                fs::write(new.join("estimates.json"), estimates).unwrap();
            }
        }
        let cores = read(home.path(), &[("wide", 32, 241)]).unwrap();
        let sizes: Vec<_> = cores.iter().map(|core| (core.shape.as_str(), core.live)).collect();
        let shapes = ["deep", "wide", "churn"];
        let expected: Vec<_> =
            shapes.iter().flat_map(|&shape| [(shape, 32), (shape, 1000)]).collect();
        assert_eq!(sizes, expected);
        assert_eq!(cores[2].bytes, Some(241));
        assert_eq!((cores[2].event_ns, cores[2].event_ns_95), (50.0, (40.0, 60.0)));
    }
}
