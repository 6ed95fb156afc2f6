//! A sink's headers, from the files of a mounted Secret: the file's name is the field name, its content the value.
//!
//! They are read anew for each request: the kubelet replaces the files when the Secret changes, and reading a few small
//! files of a tmpfs costs less than knowing when.

use super::secrets::Origin;
use crate::client::{Secret, is_sink_header};
use crate::config::SinkHeader;
use hyper::header::{HeaderMap, HeaderName};
use std::path::Path;
use testimony_core::policy::CREDENTIALS_MISSING;

/// Most header files of one sink.
const HEADERS_MAX: usize = 32;

/// Largest header file, in bytes.
const HEADER_BYTES_MAX: u64 = 16 * 1024;

/// Why a sink has no usable credentials. Holds no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadersError {
    #[error("{CREDENTIALS_MISSING}: {dir} cannot be read ({source}); {help}")]
    Missing { dir: String, source: std::io::Error, help: String },
    #[error("{CREDENTIALS_MISSING}: {dir} holds no file; {help}")]
    Empty { dir: String, help: String },
    #[error("{dir} holds more than {HEADERS_MAX} files")]
    TooMany { dir: String },
    #[error("{file} cannot be read: {source}")]
    Unreadable { file: String, source: std::io::Error },
    #[error("{file}: its name is not a header that can be set; use for example authorization")]
    Name { file: String },
    #[error("{file}: its content is not a header value of one line and at most {HEADER_BYTES_MAX} bytes")]
    Value { file: String },
}

/// Puts the headers of a sink into `headers`.
pub(super) fn read(dir: &Path, origin: Origin<'_>, headers: &mut HeaderMap) -> Result<(), HeadersError> {
    let shown = || dir.display().to_string();
    let missing = |source| HeadersError::Missing { dir: shown(), source, help: origin.without_folder() };
    let entries = std::fs::read_dir(dir).map_err(missing)?;
    let mut count = 0;
    for entry in entries {
        let entry = entry.map_err(missing)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `..data` and its like are the kubelet's.
        if name.starts_with('.') {
            continue;
        }
        count += 1;
        if count > HEADERS_MAX {
            return Err(HeadersError::TooMany { dir: shown() });
        }
        let file = entry.path();
        let path = file.display().to_string();
        let unreadable = |source| HeadersError::Unreadable { file: path.clone(), source };
        let metadata = std::fs::metadata(&file).map_err(unreadable)?;
        if metadata.len() > HEADER_BYTES_MAX || !metadata.is_file() {
            return Err(HeadersError::Value { file: path });
        }
        let text = std::fs::read(&file).map_err(unreadable)?;
        let field = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| is_sink_header(&name));
        let Some(field) = field else { return Err(HeadersError::Name { file: path }) };
        let value = std::str::from_utf8(&text).ok().and_then(|text| Secret::header(text.trim()));
        let Some(value) = value else { return Err(HeadersError::Value { file: path }) };
        headers.insert(field, value.expose());
    }
    if count == 0 {
        return Err(HeadersError::Empty {
            dir: shown(),
            help: origin.without_file("Secret", "a key named after each header"),
        });
    }
    Ok(())
}

/// Puts headers from the configuration into `headers`.
pub(super) fn add(configured: &[SinkHeader], headers: &mut HeaderMap) {
    for header in configured {
        if let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) {
            headers.insert(name, header.value.expose());
        }
    }
}
