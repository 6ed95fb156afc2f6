//! Testimony's pure core.
//!
//! Everything here is a function of its arguments: no sockets, files, clocks or randomness, and neither tokio nor kube.
//! Bytes and time come in as arguments, decisions and bytes go out. The sidecar, the operator and the tests share it.
#![forbid(unsafe_code)]

pub mod canon;
pub mod capture;
pub mod contract;
pub mod detect;
pub mod error;
pub mod evidence;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod names;
pub mod otlp;
pub mod policy;
pub mod quantity;
pub mod record;
pub mod redact;
pub mod tls;
pub mod trace;
