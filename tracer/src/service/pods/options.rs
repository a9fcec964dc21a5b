//! Where pods are asked for, out of what is configured and where the daemon runs.

use std::path::{Path, PathBuf};

use globset::GlobSet;
use thiserror::Error;

use crate::{
    container::is_name,
    service::config::{Asked, Kubernetes, NODE_NAME},
};

/// Where Kubernetes puts what a pod asks the API server with.
/// <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Variables that a pod has with the address of the API server.
const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";

/// Where, and about which pods.
#[derive(Clone, Debug)]
pub struct PodsOptions {
    /// URL of the API server.
    pub api_server: String,
    /// File with the token to ask with; `None`: without.
    pub token_file: Option<PathBuf>,
    /// File with who vouches for the server; `None`: those whom the host trusts.
    pub ca_file: Option<PathBuf>,
    /// The node.
    pub node: String,
    /// Names of labels that are told.
    pub labels: GlobSet,
}

/// Why pods cannot be asked for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Lack {
    /// It is not known where.
    #[error(
        "find the API server of Kubernetes: this is no pod with a service account, and \
         kubernetes.api_server is not set"
    )]
    Server,
    /// It is not known on which node.
    #[error("tell which node this is: set kubernetes.node, or {NODE_NAME} by the downward API")]
    Node,
    /// No node is called this.
    #[error("ask for pods of node {0:?}: no node of Kubernetes is called that")]
    NodeName(String),
}

impl PodsOptions {
    /// `None`: pods are not to be asked for. `env`: the daemon's environment.
    ///
    /// # Errors
    /// They are, and cannot be.
    pub fn of(
        config: &Kubernetes,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Lack> {
        Self::in_account(config, env, Path::new(ACCOUNT))
    }

    fn in_account(
        config: &Kubernetes,
        env: impl Fn(&str) -> Option<String>,
        account: &Path,
    ) -> Result<Option<Self>, Lack> {
        let Kubernetes { enabled, api_server, token_file, ca_file, node, labels } = config;
        let (mut token_file, mut ca_file) = (token_file.clone(), ca_file.clone());
        let api_server = match (enabled, api_server) {
            (Asked::Off, _) => return Ok(None),
            (_, Some(server)) => server.as_str().to_owned(),
            (_, None) => {
                let file = |name: &str| Some(account.join(name)).filter(|path| path.exists());
                let server =
                    server_of(&env).filter(|_| token_file.is_some() || file("token").is_some());
                let Some(server) = server else {
                    return if *enabled == Asked::On { Err(Lack::Server) } else { Ok(None) };
                };
                token_file = token_file.or_else(|| file("token"));
                ca_file = ca_file.or_else(|| file("ca.crt"));
                server
            }
        };
        let node = node.clone().or_else(|| env(NODE_NAME)).filter(|name| !name.is_empty());
        let node = node.ok_or(Lack::Node)?;
        if !is_name(&node) {
            return Err(Lack::NodeName(node));
        }
        Ok(Some(Self { api_server, token_file, ca_file, node, labels: labels.globs() }))
    }
}

/// Where a pod finds the API server.
fn server_of(env: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (host, port) = (env(HOST)?, env(PORT).unwrap_or_else(|| "443".to_owned()));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':');
    if host.is_empty() || !host.bytes().all(is_plain) || port.parse::<u16>().is_err() {
        return None;
    }
    // An address of IPv6 has colons of its own.
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    Some(format!("https://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs};

    use super::*;

    /// What a pod's environment says.
    fn pod() -> HashMap<&'static str, &'static str> {
        HashMap::from([(HOST, "10.0.0.1"), (PORT, "6443"), (NODE_NAME, "node-1")])
    }

    fn options(
        config: &Kubernetes,
        env: &HashMap<&str, &str>,
        account: &Path,
    ) -> Result<Option<PodsOptions>, Lack> {
        PodsOptions::in_account(config, |name| env.get(name).map(ToString::to_string), account)
    }

    #[test]
    fn pod_with_a_service_account_asks_with_it() {
        let account = tempfile::tempdir().unwrap();
        let auto = Kubernetes::default();
        assert!(options(&auto, &pod(), account.path()).unwrap().is_none(), "no token, no account");
        for name in ["token", "ca.crt"] {
            fs::write(account.path().join(name), "x").unwrap();
        }
        let found = options(&auto, &pod(), account.path()).unwrap().unwrap();
        assert_eq!(found.api_server, "https://10.0.0.1:6443");
        assert_eq!(found.token_file, Some(account.path().join("token")));
        assert_eq!(found.ca_file, Some(account.path().join("ca.crt")));
        assert_eq!(found.node, "node-1");
        assert!(found.labels.is_match("app.kubernetes.io/name") && !found.labels.is_match("app"));
        let six = HashMap::from([(HOST, "fd00::1"), (NODE_NAME, "n")]);
        let found = options(&auto, &six, account.path()).unwrap().unwrap();
        assert_eq!(found.api_server, "https://[fd00::1]:443");
        let off = Kubernetes { enabled: Asked::Off, ..Kubernetes::default() };
        assert!(options(&off, &pod(), account.path()).unwrap().is_none());
    }

    #[test]
    fn what_is_lacking_is_said_where_it_is_wanted() {
        let nowhere = Path::new("/no/such/account");
        let auto = Kubernetes::default();
        let on = Kubernetes { enabled: Asked::On, ..Kubernetes::default() };
        let bare = HashMap::new();
        let lack = |config: &Kubernetes, env: &HashMap<&str, &str>| {
            options(config, env, nowhere).map(drop).unwrap_err()
        };
        assert!(options(&auto, &bare, nowhere).unwrap().is_none(), "not in a pod");
        assert_eq!(lack(&on, &bare), Lack::Server);
        let server = Some("https://api.example".parse().unwrap());
        let far = Kubernetes { api_server: server, ..Kubernetes::default() };
        assert_eq!(lack(&far, &bare), Lack::Node);
        let wrong = HashMap::from([(NODE_NAME, "a,metadata.name=b")]);
        assert_eq!(lack(&far, &wrong), Lack::NodeName("a,metadata.name=b".to_owned()));
        let node = Kubernetes { node: Some("node-2".to_owned()), ..far };
        let found = options(&node, &pod(), nowhere).unwrap().unwrap();
        assert_eq!((&*found.node, &*found.api_server), ("node-2", "https://api.example"));
        assert_eq!((found.token_file, found.ca_file), (None, None), "not another cluster's");
    }
}
