//! Alerts (RFC 8446 section 6).

use std::fmt;

/// Which side sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// The alert that ended a handshake. It is shown as `client:unknown_ca`: who sent it, and its name, its number where it has
/// none, or `encrypted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Who sent it.
    pub side: Side,
    /// Its description, where it came in the clear.
    pub description: Option<u8>,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.side {
            Side::Client => "client:",
            Side::Server => "server:",
        })?;
        match self.description.map(|number| (number, name(number))) {
            None => f.write_str("encrypted"),
            Some((_, Some(name))) => f.write_str(name),
            Some((number, None)) => write!(f, "{number}"),
        }
    }
}

const fn name(description: u8) -> Option<&'static str> {
    Some(match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return None,
    })
}

/// Whether a handshake of TLS 1.2 or older goes on after it: warnings do, unless the sender says that it goes.
pub(super) const fn is_harmless(level: u8, description: u8) -> bool {
    level == 1 && !matches!(description, 0 | 90)
}
