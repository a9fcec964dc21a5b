//! All figures of a bench, as `--json` writes them and `--from` reads them.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    cleanup::Ended,
    consumption::{EventCost, Idle, Memory},
    core::Core,
    environment::ExecCost,
    hooks::HookCosts,
    latency::Latency,
    loads::{Loop, Startup},
    machine::{self, Machine},
    node::Node,
    peers::Peer,
};

const SCHEMA: &str = "tracer.bench/1";

/// What was measured; sections that were not are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) schema: String,
    pub(crate) machine: Option<Machine>,
    /// Only tried whether it can be measured.
    pub(crate) quick: bool,
    /// Pairs of runs, where runs were paired.
    pub(crate) pairs: usize,
    /// Before and after.
    pub(crate) load_average: (f64, f64),
    pub(crate) noise: Vec<Loop>,
    pub(crate) loops: Vec<Loop>,
    pub(crate) hooks: Vec<HookCosts>,
    #[serde(default)]
    pub(crate) environment: Vec<ExecCost>,
    pub(crate) events: Vec<EventCost>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) startup: Option<Startup>,
    pub(crate) latency: Option<Latency>,
    pub(crate) idle: Option<Idle>,
    #[serde(default)]
    pub(crate) cleanup: Vec<Ended>,
    #[serde(default)]
    pub(crate) core: Vec<Core>,
    #[serde(default)]
    pub(crate) node: Option<Node>,
    pub(crate) peers: Vec<Peer>,
}

impl Results {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let results: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no figures of a bench", file.display()))?;
        if results.schema != SCHEMA {
            bail!("{} is of schema {:?}, not {SCHEMA}", file.display(), results.schema);
        }
        Ok(results)
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context("write figures as JSON")?;
        text.push(b'\n');
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Notes where and of what the figures are. Figures of two machines, or of two states of the
    /// source, do not mix.
    pub(crate) fn describe(&mut self, root: &Path, is_given: bool) -> Result<()> {
        let mut machine = Machine::of_this(root);
        if is_given {
            "given by --tracer".clone_into(&mut machine.tracer);
        }
        match &self.machine {
            Some(earlier) if *earlier != machine => {
                bail!("the earlier figures are of {earlier:?}, and this is {machine:?}")
            }
            _ => self.machine = Some(machine),
        }
        SCHEMA.clone_into(&mut self.schema);
        let now = machine::load_average();
        self.load_average = (self.load_average.0.max(now), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::pairs::{Pair, Ratio};

    fn some() -> Results {
        let pairs = vec![Pair { without: 1.0, with: 1.5 }; 7];
        let mut results = Results::default();
        results.describe(Path::new("/"), true).unwrap();
        results.loops.push(Loop {
            name: "x".to_owned(),
            load: "vfork 1".to_owned(),
            ratio: Ratio::of(pairs).unwrap(),
            events: 3,
            dropped: 0,
            unseen: 0,
        });
        results
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("figures.json");
        some().write(&file).unwrap();
        assert_eq!(Results::read(&file).unwrap(), some());
        fs::write(&file, "{}").unwrap();
        assert!(Results::read(&file).is_err());
    }

    #[test]
    fn figures_of_two_machines_do_not_mix() {
        let mut results = some();
        results.describe(Path::new("/"), true).unwrap();
        results.machine.as_mut().unwrap().cpus += 1;
        assert!(results.describe(Path::new("/"), true).is_err());
    }
}
