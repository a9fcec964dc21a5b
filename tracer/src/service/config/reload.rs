//! What becomes of a configuration that is read again while the daemon runs.

use std::path::Path;

use super::{Api, Config, ConfigError, History, Kernel, Log};

/// What a daemon that was told to read its configuration again does.
#[derive(Debug)]
pub enum Reload {
    /// It goes by this one from now on. The keys that are named were changed as well, and hold only
    /// after a restart: here they have the values that are in force.
    Taken(Box<Config>, Vec<&'static str>),
    /// It goes on as before: the file is wrong.
    Kept(ConfigError),
    /// Nothing was changed.
    Unchanged,
}

/// Reads the file again.
#[must_use]
pub fn reload(path: &Path, current: &Config) -> Reload {
    Reload::of(Config::load(path), current)
}

impl Reload {
    /// What to do about what was read.
    fn of(read: Result<Config, ConfigError>, current: &Config) -> Self {
        match read {
            Err(error) => Self::Kept(error),
            Ok(new) if new == *current => Self::Unchanged,
            Ok(new) => {
                let waiting = current.changes_that_need_restart(&new);
                Self::Taken(Box::new(current.taking(new)), waiting)
            }
        }
    }
}

impl Config {
    /// Keys whose change to what `new` has takes a restart.
    #[must_use]
    pub fn changes_that_need_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            rules,
            on_leak: _,
            thresholds: _,
            kernel: Kernel { max_processes, ring_bytes, pin, pin_path, journal },
            redacts: _,
            log: Log { format, level: _ },
            api: Api { socket, group: _, announcements },
            metrics,
            history,
            sinks,
            kubernetes,
        } = self;
        let is_other_file = match (history, &new.history) {
            (Some(old), Some(new)) => old.path != new.path,
            _ => false,
        };
        [
            // What the kernel takes of environments is settled when its programs are loaded.
            (new.rules.read_more_than(rules), "variables of rules"),
            (new.kernel.max_processes != *max_processes, "kernel.max_processes"),
            (new.kernel.ring_bytes != *ring_bytes, "kernel.ring_bytes"),
            (new.kernel.pin != *pin, "kernel.pin"),
            (new.kernel.pin_path != *pin_path, "kernel.pin_path"),
            (new.kernel.journal != *journal, "kernel.journal"),
            (new.log.format != *format, "log.format"),
            (new.api.socket != *socket, "api.socket"),
            (new.api.announcements != *announcements, "api.announcements"),
            (new.metrics != *metrics, "metrics"),
            (new.history.is_some() != history.is_some(), "history.enabled"),
            (is_other_file, "history.path"),
            (new.sinks != *sinks, "sink"),
            (new.kubernetes != *kubernetes, "kubernetes"),
        ]
        .into_iter()
        .filter_map(|(is_changed, key)| is_changed.then_some(key))
        .collect()
    }

    /// `new` as far as it can hold now. Rules are taken, though variables that nobody asked for
    /// before are not seen yet.
    fn taking(&self, new: Self) -> Self {
        let Self { rules, on_leak, thresholds, redacts, log, api, history, .. } = new;
        let history = match (&self.history, history) {
            (Some(old), Some(new)) => Some(History { path: old.path.clone(), ..new }),
            (old, _) => old.clone(),
        };
        Self {
            rules,
            on_leak,
            thresholds,
            kernel: self.kernel.clone(),
            redacts,
            log: Log { format: self.log.format, ..log },
            api: Api { group: api.group, ..self.api.clone() },
            metrics: self.metrics,
            history,
            sinks: self.sinks.clone(),
            kubernetes: self.kubernetes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::service::config::{OnLeak, file::write_trusted};

    fn taken(text: &str, current: &Config) -> (Config, Vec<&'static str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.toml");
        write_trusted(&path, text.as_bytes());
        match reload(&path, current) {
            Reload::Taken(config, waiting) => (*config, waiting),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_can_hold_at_once_is_taken() {
        let text = "on_leak = 'kill'\n[thresholds]\ngrace = '9s'\n[history]\nmax_age = '1d'\n\
                    [api]\ngroup = 7\n[log]\nlevel = 'debug'\n[redaction]\nenabled = false\n\
                    [cleanup]\nsurvivor = 'term'";
        let (config, waiting) = taken(text, &Config::default());
        assert_eq!(waiting, [""; 0]);
        assert_eq!(config.on_leak, OnLeak::Kill);
        assert_eq!(config.thresholds.grace, Duration::from_secs(9));
        assert_eq!(config.api.group, Some(7));
        assert_eq!(config.log.level, log::LevelFilter::Debug);
        assert!(!config.redacts);
        assert_eq!(config.history.unwrap().max_age, Duration::from_secs(24 * 60 * 60));
        assert_ne!(config.rules, Config::default().rules);
    }

    #[test]
    fn what_needs_a_restart_is_named_until_there_was_one() {
        for (text, key) in [
            ("[kernel]\nmax_processes = 99", "kernel.max_processes"),
            ("[kernel]\nring_bytes = '4KiB'", "kernel.ring_bytes"),
            ("[kernel]\npin = false", "kernel.pin"),
            ("[kernel]\npin_path = '/x'", "kernel.pin_path"),
            ("[kernel]\njournal = '/x'", "kernel.journal"),
            ("[log]\nformat = 'json'", "log.format"),
            ("[api]\nsocket = '/x'", "api.socket"),
            ("[api]\nannouncements = '/x'", "api.announcements"),
            ("[metrics]\nlisten = ''", "metrics"),
            ("[history]\npath = '/x'", "history.path"),
            ("[history]\nenabled = false", "history.enabled"),
            ("[[sink]]\ntype = 'stdout'", "sink"),
            ("[kubernetes]\nenabled = false", "kubernetes"),
        ] {
            let before = Config::default();
            let (config, waiting) = taken(text, &before);
            assert_eq!(waiting, [key]);
            assert_eq!(config, before, "{text}");
            assert_eq!(taken(text, &config).1, [key], "asked again: {text}");
        }
    }

    #[test]
    fn rules_that_read_other_variables_are_taken_and_named() {
        let text = "[[agent]]\nname = 'mine'\nsession = ['MY_SESSION']";
        let (config, waiting) = taken(text, &Config::default());
        assert_eq!(waiting, ["variables of rules"]);
        assert_eq!(config.rules.rules().agent_names().last(), Some("mine"));
        let (_, waiting) = taken("", &config);
        assert_eq!(waiting, [""; 0], "fewer variables");
    }

    #[test]
    fn wrong_or_missing_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracer.toml");
        let current = Config::default();
        assert!(matches!(reload(&path, &current), Reload::Kept(error) if error.is_not_found()));
        write_trusted(&path, b"on_leak = 'kil'");
        assert!(matches!(reload(&path, &current), Reload::Kept(ConfigError::Wrong(_))));
        write_trusted(&path, b"# on_leak = 'kill'");
        assert!(matches!(reload(&path, &current), Reload::Unchanged));
    }
}
