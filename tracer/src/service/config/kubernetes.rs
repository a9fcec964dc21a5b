//! `[kubernetes]`: where the names of pods are asked for.

use std::{fmt, path::PathBuf};

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};
use toml::Spanned;

use super::{
    error::Problems,
    values::{Absolute, Endpoint},
};
use crate::container::is_name;

/// Labels of pods that are told unless others are named: those that Kubernetes recommends.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/>
const TOLD: &str = "app.kubernetes.io/*";
/// Globs of labels, at most.
const MOST_LABELS: usize = 64;

/// Where the names of pods are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether they are.
    pub enabled: Asked,
    /// URL of the API server; `None`: that of the cluster that the daemon runs in.
    pub api_server: Option<Endpoint>,
    /// File with the token to ask with; `None`: that of the service account, in a cluster.
    pub token_file: Option<PathBuf>,
    /// File with the certificates of who vouches for the server; `None`: those of the service account,
    /// in a cluster, else whom the host trusts.
    pub ca_file: Option<PathBuf>,
    /// The node's name; `None`: the variable [`NODE_NAME`](super::NODE_NAME) has it.
    pub node: Option<String>,
    /// Which labels are told.
    pub labels: LabelNames,
}

/// Whether Kubernetes is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// Where the daemon runs in a pod with a service account, or is told where to ask.
    #[default]
    Auto,
    /// Yes, and what is lacking for that is said.
    On,
    /// Never.
    Off,
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AutoOrNot;

        impl Visitor<'_> for AutoOrNot {
            type Value = Asked;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E: Error>(self, is_asked: bool) -> Result<Asked, E> {
                Ok(if is_asked { Asked::On } else { Asked::Off })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Asked, E> {
                let wrong = || E::invalid_value(Unexpected::Str(text), &self);
                (text == "auto").then_some(Asked::Auto).ok_or_else(wrong)
            }
        }

        from.deserialize_any(AutoOrNot)
    }
}

/// Globs of labels' names, which were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelNames(Vec<String>);

impl Default for LabelNames {
    fn default() -> Self {
        Self(vec![TOLD.to_owned()])
    }
}

impl LabelNames {
    /// What matches them.
    #[must_use]
    pub fn globs(&self) -> GlobSet {
        globs(&self.0).expect("whoever made it has checked them")
    }
}

fn globs(texts: &[String]) -> Result<GlobSet, globset::Error> {
    let mut all = GlobSetBuilder::new();
    for text in texts {
        all.add(Glob::new(text)?);
    }
    all.build()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct KubernetesTable {
    enabled: Option<Asked>,
    api_server: Option<Spanned<Endpoint>>,
    token_file: Option<Absolute>,
    ca_file: Option<Absolute>,
    node: Option<Spanned<String>>,
    labels: Option<Vec<Spanned<String>>>,
}

impl KubernetesTable {
    pub(super) fn over(self, before: Kubernetes, problems: &mut Problems<'_>) -> Kubernetes {
        let Self { enabled, api_server, token_file, ca_file, node, labels } = self;
        if let Some(name) = node.as_ref()
            && !is_name(name.get_ref())
        {
            let wanted = "the name of a node has small letters, digits, '-' and '.', 253 at most";
            problems.add(Some(name.span()), wanted);
        }
        if let Some(server) = api_server.as_ref()
            && !server.get_ref().is_private()
        {
            let refused = "the token and all names would go there in the clear: use https://";
            problems.add(Some(server.span()), refused);
        }
        let labels = labels.map_or(before.labels, |texts| label_names(texts, problems));
        Kubernetes {
            enabled: enabled.unwrap_or(before.enabled),
            api_server: api_server.map(Spanned::into_inner).or(before.api_server),
            token_file: token_file.map(|Absolute(path)| path).or(before.token_file),
            ca_file: ca_file.map(|Absolute(path)| path).or(before.ca_file),
            node: node.map(Spanned::into_inner).or(before.node),
            labels,
        }
    }
}

fn label_names(texts: Vec<Spanned<String>>, problems: &mut Problems<'_>) -> LabelNames {
    for text in &texts {
        if let Err(error) = Glob::new(text.get_ref()) {
            problems.add(Some(text.span()), &error.to_string());
        }
    }
    if let Some(beyond) = texts.get(MOST_LABELS) {
        problems.add(Some(beyond.span()), &format!("at most {MOST_LABELS} can be named"));
    }
    LabelNames(texts.into_iter().map(Spanned::into_inner).collect())
}
