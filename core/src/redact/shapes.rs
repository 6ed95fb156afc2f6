//! Shapes of secrets that are never recorded: tokens, keys and card numbers. One pass each, linear in the input.

/// Prefixes of well-known credentials, each with the least number of token characters that must follow.
const PREFIXES: &[(&[u8], usize)] = &[
    (b"AKIA", 16),
    (b"ASIA", 16),
    (b"ghp_", 20),
    (b"gho_", 20),
    (b"ghs_", 20),
    (b"github_pat_", 20),
    (b"glpat-", 16),
    (b"xoxb-", 10),
    (b"xoxp-", 10),
    (b"sk_live_", 16),
];

/// Whether a JWT, a PEM block, a bearer token, a well-known credential or a card number stands anywhere in `value`.
pub fn looks_secret(value: &[u8]) -> bool {
    contains(value, b"-----BEGIN")
        || has_token_after(value, b"Bearer ", 8)
        || has_jwt(value)
        || PREFIXES.iter().any(|(prefix, least)| has_token_after(value, prefix, *least))
        || has_card_number(value)
}

fn contains(value: &[u8], needle: &[u8]) -> bool {
    value.windows(needle.len()).any(|window| window == needle)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'/' | b'=')
}

fn has_token_after(value: &[u8], prefix: &[u8], least: usize) -> bool {
    value.windows(prefix.len()).enumerate().any(|(at, window)| {
        window == prefix
            && value
                .get(at + prefix.len()..)
                .and_then(|rest| rest.get(..least))
                .is_some_and(|following| following.iter().all(|&b| is_token_byte(b)))
    })
}

/// `eyJ<base64url>.eyJ<base64url>`: the start of two JSON objects in base64url (RFC 7519).
fn has_jwt(value: &[u8]) -> bool {
    let base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    value.split(|&b| !base64url(b) && b != b'.').any(|run| {
        run.windows(5).enumerate().any(|(dot, window)| {
            window.starts_with(b".eyJ")
                && run.get(..dot).is_some_and(|before| {
                    before.rsplit(|&b| b == b'.').next().is_some_and(|header| contains(header, b"eyJ"))
                })
        })
    })
}

/// 13 to 19 digits, single spaces or hyphens between them, that start like a card and pass Luhn's check (ISO/IEC 7812).
fn has_card_number(value: &[u8]) -> bool {
    let mut digits: Vec<u8> = Vec::with_capacity(20);
    let mut separated = false;
    for &byte in value {
        match byte {
            b'0'..=b'9' => {
                digits.push(byte - b'0');
                separated = false;
            }
            b' ' | b'-' if !digits.is_empty() && !separated => separated = true,
            _ => {
                if is_card(&digits) {
                    return true;
                }
                digits.clear();
                separated = false;
            }
        }
    }
    is_card(&digits)
}

fn is_card(digits: &[u8]) -> bool {
    if !(13..=19).contains(&digits.len()) || !matches!(digits.first(), Some(2..=6)) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| {
            let doubled = u32::from(digit) * if at % 2 == 1 { 2 } else { 1 };
            if doubled > 9 { doubled - 9 } else { doubled }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for secret in [
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.x",
            "x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0",
            "-----BEGIN RSA PRIVATE KEY-----",
            "Bearer abcdefgh",
            "AKIAABCDEFGHIJKLMNOP",
            "4111 1111 1111 1111",
            "card 5500-0055-5555-5559.",
            "378282246310005",
        ] {
            assert!(looks_secret(secret.as_bytes()), "{secret}");
        }
        for plain in [
            "",
            "eyJ",
            "a.eyJ",
            "Mozilla/5.0 (X11; Linux x86_64)",
            "4111111111111112",
            "2026-11-24T00:00:00Z",
            "1234567890123",
            "/v1/orders/10000000000000",
            "bearer",
        ] {
            assert!(!looks_secret(plain.as_bytes()), "{plain}");
        }
    }
}
