//! What a sink wants to be shown: the client certificate and the ServiceAccount token, from the files that the kubelet
//! mounts. Like the headers they are read anew for each request, so that a rotation needs nothing else.

use super::Settings;
use crate::client::{Identity, IdentityError, Secret};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use testimony_core::contract::path::SINK_TOKEN_FILE;
use testimony_core::policy::{CERTIFICATE_MISSING, DocumentSink};

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Readings of a certificate and its key, which the kubelet may replace in between.
const READINGS_MAX: u32 = 3;

const CERTIFICATE_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// The Secret behind a folder, as far as it is known. For messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin<'a> {
    pub(super) secret: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
}

/// Why there is no usable certificate or token. Holds nothing of either.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("{CERTIFICATE_MISSING}: {file} is not there; {help}")]
    NoCertificate { file: String, help: String },
    #[error("the ServiceAccount token is missing: {file} is not there; {help}")]
    NoToken { file: String, help: String },
    #[error("{file} cannot be read: {source}")]
    Unreadable { file: String, source: std::io::Error },
    #[error("{file} has more than {FILE_BYTES_MAX} bytes")]
    TooLarge { file: String },
    #[error("{file}: {source}")]
    Identity { file: String, source: IdentityError },
    #[error("{file} holds no token of one line")]
    Token { file: String },
}

// === impl Origin ===

impl Origin<'_> {
    /// What to do when the folder itself is not there: an optional Secret that is missing leaves an empty one.
    pub(super) fn without_folder(&self) -> String {
        match self.secret {
            Some(secret) => format!("the pod was created before the sink named Secret {secret}: restart the pod"),
            None => "make the folder".to_owned(),
        }
    }

    /// What to do when the folder is empty.
    pub(super) fn without_file(&self, kind: &str, content: &str) -> String {
        match (self.secret, self.namespace) {
            (Some(secret), Some(namespace)) => {
                format!("create {kind} {secret} in namespace {namespace} with {content}")
            }
            (Some(secret), None) => format!("create {kind} {secret} in the pod's namespace with {content}"),
            (None, _) => format!("put {content} into the folder"),
        }
    }
}

/// The client certificate of a sink.
pub(super) fn identity(settings: &Settings, sink: &DocumentSink) -> Result<Identity, SecretError> {
    let folder = settings.folders.certificates.join(&sink.name);
    let origin = Origin { secret: sink.client_certificate_secret.as_deref(), namespace: settings.namespace.as_deref() };
    for _ in 1..READINGS_MAX {
        if let Ok(identity) = read_identity(&folder, origin) {
            return Ok(identity);
        }
    }
    read_identity(&folder, origin)
}

/// Both files come from one version of the Secret: the kubelet switches the link `..data` when it writes another.
fn read_identity(folder: &Path, origin: Origin<'_>) -> Result<Identity, SecretError> {
    let version = std::fs::canonicalize(folder.join("..data")).unwrap_or_else(|_| folder.to_owned());
    let missing = |file: &Path| SecretError::NoCertificate {
        file: file.display().to_string(),
        help: if folder.is_dir() {
            origin.without_file("Secret", "keys tls.crt and tls.key (type kubernetes.io/tls)")
        } else {
            origin.without_folder()
        },
    };
    let shown = |name: &str| folder.join(name);
    let chain = read(&version.join(CERTIFICATE_FILE), &shown(CERTIFICATE_FILE), &missing)?;
    let key = read(&version.join(KEY_FILE), &shown(KEY_FILE), &missing)?;
    Identity::from_pem(&chain, &key).map_err(|source| {
        let file = if source == IdentityError::Key { KEY_FILE } else { CERTIFICATE_FILE };
        SecretError::Identity { file: shown(file).display().to_string(), source }
    })
}

/// The value of `authorization` with the ServiceAccount token of a sink.
pub(super) fn bearer(settings: &Settings, sink: &DocumentSink) -> Result<Secret, SecretError> {
    let folder = settings.folders.tokens.join(&sink.name);
    let file: PathBuf = folder.join(SINK_TOKEN_FILE);
    let missing = |file: &Path| SecretError::NoToken {
        file: file.display().to_string(),
        help: "the pod was created before the sink had serviceAccountToken: restart the pod".to_owned(),
    };
    let token = read(&file, &file, &missing)?;
    let token = std::str::from_utf8(&token).map(str::trim).unwrap_or_default();
    let value = if token.is_empty() { None } else { Secret::header(&format!("Bearer {token}")) };
    value.ok_or_else(|| SecretError::Token { file: file.display().to_string() })
}

fn read(file: &Path, shown: &Path, missing: &dyn Fn(&Path) -> SecretError) -> Result<Vec<u8>, SecretError> {
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => missing(shown),
        _ => SecretError::Unreadable { file: shown.display().to_string(), source },
    };
    let metadata = std::fs::metadata(file).map_err(failed)?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(SecretError::TooLarge { file: shown.display().to_string() });
    }
    std::fs::read(file).map_err(failed)
}
