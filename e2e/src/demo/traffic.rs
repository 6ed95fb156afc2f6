//! The demo's customers: two users with a bearer token each.

use crate::kube::Kubectl;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const CUSTOMERS: &str = "customers";
const FRONTEND: &str = "http://frontend.shop.svc.cluster.local:8080";
const REQUEST_SECONDS_MAX: &str = "10";
const SHA256_BLOCK_BYTES: usize = 64;
/// Signs the tokens. Nobody checks them: the shop reads no claim, and a sidecar marks them as unverified.
const TOKEN_KEY: &[u8] = b"a key of the demo";

/// A JWT for `user`, signed by HS256, valid for an hour from `now_seconds`.
pub fn token(user: &str, now_seconds: u64) -> String {
    const VALID_SECONDS: u64 = 3600;
    let header = serde_json::json!({"alg": "HS256", "typ": "JWT"});
    let claims = serde_json::json!({
        "iss": "https://id.shop.example",
        "sub": user,
        "aud": "shop",
        "iat": now_seconds,
        "exp": now_seconds.saturating_add(VALID_SECONDS),
    });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
    let signature = encode(&hmac_sha256(TOKEN_KEY, signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// RFC 2104 with SHA-256, for keys of at most one block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        let padded = key.iter().copied().chain(std::iter::repeat(0)).take(SHA256_BLOCK_BYTES);
        padded.map(|value| value ^ byte).collect()
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// A customer's request; returns status and body.
fn curl(kubectl: &Kubectl, token: &str, arguments: &[&str], path: &str) -> Result<String> {
    let authorization = format!("authorization: Bearer {token}");
    let url = format!("{FRONTEND}{path}");
    let mut command = vec!["curl", "--silent", "--show-error", "--max-time", REQUEST_SECONDS_MAX];
    command.extend(["--write-out", " -> %{http_code}", "--header", &authorization]);
    command.extend_from_slice(arguments);
    command.push(&url);
    Ok(kubectl.exec(CUSTOMERS, "deploy/customer", "toolbox", &command)?.replace('\n', " "))
}

/// Whether each of the shop's Services answers a customer; asks for what the demo's policy does not record.
pub fn is_open(kubectl: &Kubectl) -> bool {
    ["frontend", "orders", "payments"].iter().all(|service| {
        let url = format!("http://{service}.shop.svc.cluster.local:8080/healthz");
        let command = ["curl", "--silent", "--fail", "--max-time", REQUEST_SECONDS_MAX, &url];
        kubectl.exec(CUSTOMERS, "deploy/customer", "toolbox", &command).is_ok()
    })
}

/// Alice buys a book and watches prices; bob forgets what he wanted, then buys a pen and opens a WebSocket. Returns what
/// each saw.
pub fn drive(kubectl: &Kubectl, now_seconds: u64) -> Result<Vec<String>> {
    let (alice, bob) = (token("alice", now_seconds), token("bob", now_seconds));
    let buy = |token: &str, query: &str| curl(kubectl, token, &["--request", "POST"], &format!("/buy?{query}"));
    let mut seen = Vec::new();
    seen.push(format!("alice  POST /buy?item=book  {}", buy(&alice, "item=book")?));
    seen.push(format!("bob    POST /buy            {}", buy(&bob, "")?));
    seen.push(format!("bob    POST /buy?item=pen   {}", buy(&bob, "item=pen")?));
    let events = curl(kubectl, &alice, &["--header", "accept: text/event-stream"], "/events")?;
    seen.push(format!("alice  GET /events          {} events", events.matches("event: price").count()));
    seen.push(format!("bob    GET /ws              {}", websocket(kubectl, &bob)?));
    Ok(seen)
}

/// Opens a WebSocket, sends one text frame and a close frame, and returns the answer's status line.
fn websocket(kubectl: &Kubectl, token: &str) -> Result<String> {
    const FRAMES: &str = r"\201\205\000\000\000\000hello\210\200\000\000\000\000";
    let script = format!(
        "printf 'GET /ws HTTP/1.1\\r\\nHost: frontend.shop.svc.cluster.local:8080\\r\\nConnection: Upgrade\\r\\n\
         Upgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\
         Authorization: Bearer {token}\\r\\n\\r\\n{FRAMES}' | nc -w {REQUEST_SECONDS_MAX} \
         frontend.shop.svc.cluster.local 8080 | head -n 1"
    );
    let answer = kubectl.exec(CUSTOMERS, "deploy/customer", "toolbox", &["sh", "-c", &script])?;
    Ok(answer.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(crate::image::hex(&mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn a_token_names_its_user() -> Result<()> {
        let token = token("alice", 1_800_000_000);
        let claims = token.split('.').nth(1).unwrap_or_default();
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
        assert_eq!(claims.get("sub"), Some(&serde_json::json!("alice")));
        assert_eq!(claims.get("exp"), Some(&serde_json::json!(1_800_003_600)));
        Ok(())
    }
}
