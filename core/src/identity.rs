//! Who sent a request, as far as the request itself and the connection tell. Nothing here is verified: tokens are read,
//! not checked, and every identity says so (`assurance`).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Longest token that is read, in bytes; a longer one counts as opaque.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What kind of actor it is: `audit.actor.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorType {
    /// A person.
    User,
    /// A workload.
    Service,
    /// The platform itself: the kubelet's probes.
    System,
    /// Nothing tells.
    Unknown,
}

impl ActorType {
    /// As it stands in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::System => "system",
            Self::Unknown => "unknown",
        }
    }
}

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A JWT in `Authorization: Bearer`; its claims were read, not verified.
    Jwt,
    /// The user name of `Authorization: Basic`; without one, or without a password, nobody can be named from it.
    Basic,
    /// A bearer token that is not a JWT: nobody can be named from it.
    Bearer,
    /// An outbound request: the pod's own ServiceAccount.
    Pod,
    /// The peer's address.
    Address,
}

impl AuthMethod {
    /// As it stands in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Basic => "basic",
            Self::Bearer => "bearer",
            Self::Pod => "pod",
            Self::Address => "address",
        }
    }
}

/// A credential as read from `Authorization`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Claims of a JWT.
    Jwt {
        /// `sub`, else `client_id` or `azp`.
        subject: String,
        /// `iss`.
        issuer: Option<String>,
        /// By the claims: a ServiceAccount or a client acting for itself is a service.
        kind: ActorType,
    },
    /// User name of Basic. `None`: nobody can be named from it.
    Basic(Option<String>),
    /// Some other bearer token.
    OpaqueBearer,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    iss: Option<String>,
    client_id: Option<String>,
    azp: Option<String>,
}

/// Reads the value of an `Authorization` field (RFC 7617, RFC 6750). `None`: no scheme that names anybody.
pub fn credential(value: &[u8]) -> Option<Credential> {
    if value.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?.trim();
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(jwt(rest).unwrap_or(Credential::OpaqueBearer));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = STANDARD.decode(rest).or_else(|_| STANDARD_NO_PAD.decode(rest)).ok()?;
        // What comes without the other half may be a key: many services take one as user, as password, or alone.
        let colon = decoded.iter().position(|&b| b == b':').unwrap_or(decoded.len());
        let user = decoded.get(..colon).unwrap_or_default();
        let password = decoded.get(colon..).and_then(|rest| rest.split_first()).map_or(&[][..], |(_, rest)| rest);
        let both = !user.is_empty() && !is_no_password(password);
        return Some(Credential::Basic(both.then(|| String::from_utf8_lossy(user).into_owned())));
    }
    None
}

/// What services that take a key as user name want to see as password.
const NO_PASSWORDS: [&str; 4] = ["api_token", "none", "unused", "x-oauth-basic"];

/// One character or none, nothing but `x`, or one of [`NO_PASSWORDS`].
fn is_no_password(password: &[u8]) -> bool {
    password.len() <= 1
        || password.iter().all(|byte| byte.eq_ignore_ascii_case(&b'x'))
        || NO_PASSWORDS.iter().any(|known| password.eq_ignore_ascii_case(known.as_bytes()))
}

fn jwt(token: &str) -> Option<Credential> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let client = claims.client_id.or(claims.azp);
    let subject = claims.sub.or_else(|| client.clone())?;
    let service = subject.starts_with("system:serviceaccount:") || client.as_deref() == Some(subject.as_str());
    let kind = if service { ActorType::Service } else { ActorType::User };
    Some(Credential::Jwt { subject, issuer: claims.iss, kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(claims: &str) -> Vec<u8> {
        format!("Bearer {}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims)).into_bytes()
    }

    #[test]
    fn table() {
        let user =
            Credential::Jwt { subject: "alice".into(), issuer: Some("https://idp".into()), kind: ActorType::User };
        assert_eq!(credential(&token(r#"{"sub":"alice","iss":"https://idp","azp":"shop"}"#)), Some(user));
        let service =
            |subject: &str| Credential::Jwt { subject: subject.into(), issuer: None, kind: ActorType::Service };
        assert_eq!(credential(&token(r#"{"client_id":"batch"}"#)), Some(service("batch")));
        let account = "system:serviceaccount:shop:orders";
        assert_eq!(credential(&token(&format!(r#"{{"sub":"{account}"}}"#))), Some(service(account)));
        assert_eq!(credential(b"basic YWxpY2U6c2VjcmV0"), Some(Credential::Basic(Some("alice".into()))));
        for nameless in [&b"Basic a2V5"[..], b"Basic a2V5Og==", b"Basic OmtleQ==", b"Basic Og==", b"Basic "] {
            assert_eq!(credential(nameless), (nameless.len() > 6).then_some(Credential::Basic(None)));
        }
        // key:x, key:Xx, key:api_token
        for dummy in [&b"Basic a2V5Ong="[..], b"Basic a2V5Olh4", b"Basic a2V5OmFwaV90b2tlbg=="] {
            assert_eq!(credential(dummy), Some(Credential::Basic(None)));
        }
        assert_eq!(credential(b"Bearer opaque"), Some(Credential::OpaqueBearer));
        assert_eq!(credential(&token(r#"{"sub":7}"#)), Some(Credential::OpaqueBearer));
        for other in [&b"Digest x"[..], b"", b"Bearer", b"Basic !!!", b"\xff\xff"] {
            assert_eq!(credential(other), None);
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = credential(&value);
        }
    }
}
