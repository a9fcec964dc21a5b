//! One HTTP server: what is sent to it, and what its answers mean.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::hmac;
use thiserror::Error;
use ureq::{
    Agent,
    http::{StatusCode, Uri, header::RETRY_AFTER},
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
};

use super::{Reason, SecretError, retry::retry_after};

/// Longest secret, bytes.
const MOST_SECRET: u64 = 64 << 10;
/// So much of an answer is read, so that the connection can be used again.
const MOST_ANSWER: u64 = 64 << 10;

/// Where a webhook is: `http` or `https`, without name and password. It may hold a token all the
/// same, so only scheme, host and port are ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(Uri);

/// Why something is no [`Url`]. Holds nothing of it. Reads on after "failed to".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// It is none.
    #[error("read the URL of a webhook: it is none; give one as https://host/path")]
    Malformed,
    /// Another scheme.
    #[error("read the URL of a webhook: it is neither http nor https")]
    Scheme,
    /// A name or password.
    #[error(
        "read the URL of a webhook: it holds a name or password; tracer signs instead, see \
         secret_file"
    )]
    Credentials,
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let authority = uri.authority().ok_or(UrlError::Malformed)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(UrlError::Scheme);
        }
        if authority.as_str().contains('@') {
            return Err(UrlError::Credentials);
        }
        let has_port = authority.as_str().len() > authority.host().len();
        if authority.host().is_empty() || (has_port && authority.port_u16().is_none()) {
            return Err(UrlError::Malformed);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = (self.0.scheme_str(), self.0.authority());
        let authority = authority.map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}", scheme.unwrap_or_default())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self}/...)")
    }
}

/// What deliveries are signed with.
pub(super) struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

impl Secret {
    /// Reads it from a file that not everybody can read. A newline at its end is not part of it.
    pub(super) fn of_file(path: &Path) -> Result<Self, Reason> {
        Self::read(path).map_err(|reason| Reason::Secret { path: path.to_owned(), reason })
    }

    fn read(path: &Path) -> Result<Self, SecretError> {
        let file = File::open(path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        if mode & 0o006 != 0 {
            return Err(SecretError::Open(mode));
        }
        let mut bytes = Vec::new();
        file.take(MOST_SECRET + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MOST_SECRET {
            return Err(SecretError::Long(MOST_SECRET));
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        Ok(Self::new(bytes))
    }

    fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The signature's header at a time, seconds since the epoch.
    fn sign(&self, at: u64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{at}.").as_bytes());
        context.update(body);
        let tag = context.sign();
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={at},v1={hex}")
    }
}

/// What became of a delivery.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server has it.
    Taken,
    /// The server will never take it. Reads on after "failed to".
    Refused(String),
    /// It may take it later, and not before so long.
    Later(String, Option<Duration>),
}

/// A server.
#[derive(Debug)]
pub(super) struct Endpoint {
    url: Url,
    secret: Option<Secret>,
    agent: Agent,
}

impl Endpoint {
    /// Reads what is needed to verify it, and connects later.
    pub(super) fn new(
        url: &Url,
        secret: Option<Secret>,
        ca_file: Option<&Path>,
    ) -> Result<Self, Reason> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Whatever the daemon's environment says.
            .proxy(None)
            .max_idle_connections(1)
            .user_agent(concat!("tracer/", env!("CARGO_PKG_VERSION")));
        if url.0.scheme_str() == Some("https") {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let roots = RootCerts::new_with_certs(&roots(ca_file)?);
            let tls = TlsConfig::builder().root_certs(roots);
            config = config.tls_config(tls.unversioned_rustls_crypto_provider(provider).build());
        }
        Ok(Self { url: url.clone(), secret, agent: config.build().new_agent() })
    }

    /// Sends lines, and waits for the answer so long at most.
    pub(super) fn post(&self, id: &str, body: &[u8], timeout: Duration) -> Answer {
        let mut request = self
            .agent
            .post(self.url.0.clone())
            .header("content-type", "application/x-ndjson")
            .header("x-tracer-delivery", id);
        if let Some(secret) = &self.secret {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            request = request.header("x-tracer-signature", secret.sign(now.as_secs(), body));
        }
        match request.config().timeout_global(Some(timeout)).build().send(body) {
            Ok(mut response) => {
                let after = response.headers().get(RETRY_AFTER);
                let after = after.and_then(|value| value.to_str().ok());
                let after = after.and_then(|value| retry_after(value, SystemTime::now()));
                let answer = self.answer(response.status(), after);
                // What it says is nobody's business; that it cannot be read is no matter.
                let _ = response.body_mut().with_config().limit(MOST_ANSWER).read_to_vec();
                answer
            }
            Err(error) => Answer::Later(format!("deliver to {}: {error}", self.url), None),
        }
    }

    fn answer(&self, status: StatusCode, after: Option<Duration>) -> Answer {
        let url = &self.url;
        match status.as_u16() {
            200..=299 => Answer::Taken,
            code @ 300..=399 => Answer::Refused(format!(
                "deliver to {url}: it answers {code}, and redirects are not followed; configure \
                 the address that it leads to"
            )),
            // Too slow, too early, too many (RFC 9110, RFC 8470, RFC 6585).
            code @ (408 | 425 | 429 | 500..) => {
                Answer::Later(format!("deliver to {url}: it answers {code}"), after)
            }
            code => Answer::Refused(format!("deliver to {url}: it refuses with {code}")),
        }
    }
}

/// Certificates that servers are verified by: those of the file, or of this host.
fn roots(ca_file: Option<&Path>) -> Result<Vec<Certificate<'static>>, Reason> {
    let Some(path) = ca_file else {
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map_or_else(|| "none found".into(), ToString::to_string);
            return Err(Reason::NoCertificates(why));
        }
        return Ok(found.certs.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect());
    };
    let failed = |reason| Reason::Certificates { path: path.to_owned(), reason };
    let pem = fs::read(path).map_err(failed)?;
    let mut roots = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(cert) = item.map_err(io::Error::other).map_err(failed)? {
            roots.push(cert);
        }
    }
    if roots.is_empty() {
        return Err(failed(io::Error::other("it holds none in PEM")));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sign(key: &[u8], at: u64, body: &[u8]) -> String {
        Secret::new(key).sign(at, body)
    }

    #[test]
    fn signature_is_an_hmac_of_time_and_body() {
        // printf '%s' '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        assert_eq!(
            sign(b"secret", 1_700_000_000, b"{\"a\":1}"),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }

    #[test]
    fn url_is_http_or_https_and_never_shown_whole() {
        let url: Url = "https://hooks.example:8443/T0/token?key=hush".parse().unwrap();
        assert_eq!(url.to_string(), "https://hooks.example:8443");
        assert!(!format!("{url:?}").contains("token"));
        for (text, error) in [
            ("ftp://host/", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Malformed),
            ("https://user:hush@host/", UrlError::Credentials),
            ("https://", UrlError::Malformed),
            ("https://host:99999/", UrlError::Malformed),
            ("https://host:/", UrlError::Malformed),
            ("/path", UrlError::Malformed),
            ("host", UrlError::Scheme),
            ("", UrlError::Malformed),
            ("http://a b/", UrlError::Malformed),
        ] {
            assert_eq!(text.parse::<Url>(), Err(error), "{text}");
        }
        for text in ["http://127.0.0.1:1", "HTTPS://host", "http://[::1]:80/x", "http://[::1]/"] {
            assert!(text.parse::<Url>().is_ok(), "{text}");
        }
    }

    #[test]
    fn secret_is_read_without_its_newline_and_only_from_a_file_that_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = |bytes: &[u8], mode| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Secret::read(&path)
        };
        for bytes in [&b"hush"[..], b"hush\n", b"hush\r\n"] {
            assert_eq!(read(bytes, 0o600).unwrap().sign(1, b"x"), sign(b"hush", 1, b"x"));
        }
        assert_eq!(read(b"\nhush \n\n", 0o640).unwrap().sign(1, b"x"), sign(b"\nhush \n", 1, b"x"));
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert!(matches!(read(empty, 0o600), Err(SecretError::Empty)));
        }
        for mode in [0o604, 0o602, 0o644, 0o666] {
            assert!(matches!(read(b"hush", mode), Err(SecretError::Open(found)) if found == mode));
        }
        let most = usize::try_from(MOST_SECRET).unwrap();
        assert!(read(&vec![b'x'; most], 0o600).is_ok());
        assert!(matches!(read(&vec![b'x'; most + 1], 0o600), Err(SecretError::Long(_))));
        assert!(!format!("{:?}", read(b"hush", 0o600)).contains("hush"));
        fs::remove_file(&path).unwrap();
        assert!(matches!(Secret::read(&path), Err(SecretError::Read(_))));
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let url: Url = "https://localhost/".parse().unwrap();
        for text in ["", "nothing", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            let refused = Endpoint::new(&url, None, Some(&path));
            assert!(matches!(refused, Err(Reason::Certificates { .. })), "{text}");
        }
    }
}
