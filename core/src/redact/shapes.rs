//! Shapes of secrets that are never recorded: tokens, keys and card numbers. One pass each, linear in the input.
//!
//! Nearly every value has none. So one pass looks which shapes are possible at all: each needs a byte that ordinary values
//! seldom have, or many digits.

use memchr::{memchr_iter, memchr2_iter};

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

/// Fewest bytes of what is taken for a token by its letters alone.
const TOKEN_BYTES_MIN: usize = 16;

/// The start of a PEM block.
const PEM: &[u8] = b"-----BEGIN";

/// The start of a bearer token, and the least number of token characters that must follow.
const BEARER: (&[u8], usize) = (b"Bearer ", 8);

/// Fewest digits of a card number (ISO/IEC 7812).
const CARD_DIGITS_MIN: usize = 13;

/// Fewest digits of each group of a card number that has other digits beside it: shorter groups would make one of each tenth
/// row of numbers.
const CARD_GROUP_DIGITS_MIN: usize = 3;

/// Most digits of a card number.
const CARD_DIGITS_MAX: usize = 19;

/// Bytes that tell: of a JWT's `eyJ`, of PEM and `Bearer`, of `AKIA` and `ASIA`, and two that stand in other prefixes.
const JWT_SIGN: u8 = b'J';
const PEM_SIGN: u8 = b'B';
const AWS_SIGN: u8 = b'I';
const UNDERSCORE: u8 = b'_';
const HYPHEN: u8 = b'-';

/// What `AKIA` and `ASIA` end in; every other prefix ends in a hyphen or an underscore.
const AWS_LAST: u8 = b'A';

/// The bytes before the last of a prefix: at most places none of them stands.
const BEFORE_LAST: [bool; 256] = {
    let (mut is_one, mut at) = ([false; 256], 0);
    while at < PREFIXES.len() {
        let prefix = PREFIXES[at].0;
        assert!(matches!(prefix[prefix.len() - 1], AWS_LAST | UNDERSCORE | HYPHEN));
        is_one[prefix[prefix.len() - 2] as usize] = true;
        at += 1;
    }
    is_one
};

/// What a value holds, by its bytes alone.
#[derive(Clone, Copy, Default)]
pub struct Signs {
    /// Bits of the signs that are there.
    bits: u8,
    digits: usize,
}

const PERCENT_BIT: u8 = 1 << 5;
const DIGIT_BIT: u8 = 1 << 7;

/// The bit of each byte.
const BITS: [u8; 256] = {
    let mut bits = [0; 256];
    bits[JWT_SIGN as usize] = 1;
    bits[PEM_SIGN as usize] = 1 << 1;
    bits[AWS_SIGN as usize] = 1 << 2;
    bits[UNDERSCORE as usize] = 1 << 3;
    bits[HYPHEN as usize] = 1 << 4;
    bits[b'%' as usize] = PERCENT_BIT;
    let mut digit = b'0';
    while digit <= b'9' {
        bits[digit as usize] = DIGIT_BIT;
        digit += 1;
    }
    bits
};

impl Signs {
    /// Looks at each byte once.
    pub fn of(value: &[u8]) -> Self {
        value.iter().fold(Self::default(), |signs, byte| {
            let bit = BITS.get(usize::from(*byte)).copied().unwrap_or_default();
            Self { bits: signs.bits | bit, digits: signs.digits + usize::from(bit >> 7) }
        })
    }

    /// Whether a percent sign is there.
    pub fn has_percent(self) -> bool {
        self.bits & PERCENT_BIT != 0
    }

    fn has(self, sign: u8) -> bool {
        self.bits & BITS.get(usize::from(sign)).copied().unwrap_or_default() != 0
    }
}

/// Whether a JWT, a PEM block, a bearer token, a well-known credential or a card number stands anywhere in `value`.
pub fn looks_secret(value: &[u8]) -> bool {
    has_secret(value, Signs::of(value))
}

/// The same, for a value whose signs are known.
pub fn has_secret(value: &[u8], signs: Signs) -> bool {
    signs.has(PEM_SIGN) && (has_token_after(value, PEM, 0) || has_token_after(value, BEARER.0, BEARER.1))
        || signs.has(JWT_SIGN) && has_jwt(value)
        || signs.has(AWS_SIGN) && has_credential(value, memchr_iter(AWS_LAST, value))
        || (signs.has(UNDERSCORE) || signs.has(HYPHEN))
            && has_credential(value, memchr2_iter(UNDERSCORE, HYPHEN, value))
        || signs.digits >= CARD_DIGITS_MIN && has_card_number(value)
}

/// Whether all of `value` may be base64 or hex of some length, and is no word: digits stand among its letters, or both cases
/// in such numbers as no camel case has. For places alone where words stand seldom.
pub fn looks_random(value: &[u8]) -> bool {
    let count = |is: fn(&u8) -> bool| value.iter().filter(|byte| is(byte)).count();
    let (upper, lower, digits) =
        (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase), count(u8::is_ascii_digit));
    value.len() >= TOKEN_BYTES_MIN
        && value.iter().all(|&byte| is_token_byte(byte))
        && (digits > 0 && upper + lower > 0 || upper.min(lower) > value.len() / 4)
}

/// Whether one of [`PREFIXES`] ends at one of these places, with its token characters after it.
fn has_credential(value: &[u8], mut ends: impl Iterator<Item = usize>) -> bool {
    ends.any(|end| {
        let before = end.checked_sub(1).and_then(|before| value.get(before)).copied().unwrap_or_default();
        BEFORE_LAST.get(usize::from(before)).is_some_and(|is_one| *is_one)
            && PREFIXES.iter().any(|(prefix, least)| is_token_after(value, end, prefix, *least))
    })
}

fn contains(value: &[u8], needle: &[u8]) -> bool {
    value.windows(needle.len()).any(|window| window == needle)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'+' | b'/' | b'=')
}

fn has_token_after(value: &[u8], prefix: &[u8], least: usize) -> bool {
    let Some(&last) = prefix.last() else { return false };
    memchr_iter(last, value).any(|end| is_token_after(value, end, prefix, least))
}

/// Whether a prefix has its last byte at `end`, and so many token characters follow.
fn is_token_after(value: &[u8], end: usize, prefix: &[u8], least: usize) -> bool {
    let (before, after) = value.split_at_checked(end + 1).unwrap_or_default();
    before.ends_with(prefix) && after.get(..least).is_some_and(|following| following.iter().all(|&b| is_token_byte(b)))
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

/// 13 to 19 digits that start like a card and pass Luhn's check (ISO/IEC 7812): all of what single spaces and hyphens join, or
/// adjacent groups of it with [`CARD_GROUP_DIGITS_MIN`] digits or more.
///
/// All of it stands in one run of such bytes, which is so long that a look at each thirteenth byte meets it.
fn has_card_number(value: &[u8]) -> bool {
    let in_run = |byte: &&u8| matches!(byte, b'0'..=b'9' | b' ' | b'-');
    let mut at = CARD_DIGITS_MIN - 1;
    while let Some((before, after)) = value.split_at_checked(at).filter(|(_, after)| !after.is_empty()) {
        let length = after.iter().take_while(in_run).count();
        if length > 0 {
            let begin = at - before.iter().rev().take_while(in_run).count();
            if value.get(begin..at + length).is_some_and(run_has_card_number) {
                return true;
            }
        }
        at += length + CARD_DIGITS_MIN;
    }
    false
}

/// The same, looking at each byte.
fn run_has_card_number(value: &[u8]) -> bool {
    let is_first = |at: usize| at.checked_sub(1).and_then(|at| value.get(at)).is_none_or(|byte| !byte.is_ascii_digit());
    joined_has_card_number(value)
        || (0..value.len()).any(|at| is_first(at) && value.get(at..).is_some_and(groups_begin_with_card_number))
}

/// Whether the first groups of `value` are a card number. Looks at as many bytes as a card number can have.
fn groups_begin_with_card_number(value: &[u8]) -> bool {
    let mut room = [0; CARD_DIGITS_MAX];
    let mut count = 0;
    for group in value.split(|byte| matches!(byte, b' ' | b'-')) {
        let digits = group.iter().take_while(|byte| byte.is_ascii_digit()).take(CARD_DIGITS_MAX + 1).count();
        let Some(slots) = room.get_mut(count..count + digits).filter(|_| digits >= CARD_GROUP_DIGITS_MIN) else {
            return false;
        };
        for (slot, byte) in slots.iter_mut().zip(group) {
            *slot = byte - b'0';
        }
        count += digits;
        if is_card(room.get(..count).unwrap_or_default()) {
            return true;
        }
        if digits < group.len() {
            return false;
        }
    }
    false
}

/// Whether all digits that are joined anywhere are a card number.
fn joined_has_card_number(value: &[u8]) -> bool {
    // One more than a card has: so many are none.
    let mut room = [0; CARD_DIGITS_MAX + 1];
    let mut count = 0;
    let mut separated = false;
    for &byte in value {
        match byte {
            b'0'..=b'9' => {
                if let Some(slot) = room.get_mut(count) {
                    *slot = byte - b'0';
                    count += 1;
                }
                separated = false;
            }
            b' ' | b'-' if count > 0 && !separated => separated = true,
            _ => {
                if is_card(room.get(..count).unwrap_or_default()) {
                    return true;
                }
                count = 0;
                separated = false;
            }
        }
    }
    is_card(room.get(..count).unwrap_or_default())
}

fn is_card(digits: &[u8]) -> bool {
    if !(CARD_DIGITS_MIN..=CARD_DIGITS_MAX).contains(&digits.len()) || !matches!(digits.first(), Some(2..=6)) {
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
    use proptest::prelude::*;

    /// The shapes as they are defined, each looked for at every place.
    fn defined(value: &[u8]) -> bool {
        let after = |prefix: &[u8], least: usize| {
            (0..value.len()).any(|at| {
                let token = value[at..].strip_prefix(prefix).and_then(|rest| rest.get(..least));
                token.is_some_and(|token| token.iter().all(|&b| is_token_byte(b)))
            })
        };
        contains(value, PEM)
            || after(BEARER.0, BEARER.1)
            || has_jwt(value)
            || PREFIXES.iter().any(|(prefix, least)| after(prefix, *least))
            || run_has_card_number(value)
    }

    proptest! {
        /// Looking at some bytes only finds what looking at each one finds.
        #[test]
        fn ev_2_a_card_number_is_found_wherever_it_stands(
            before in "[0-9 x-]{0,30}",
            card in "(4111 ?1111-?1111 ?1111|37828224631000[56]|6011 0009 9013 9424)?",
            after in "[0-9 x-]{0,30}",
        ) {
            let value = [before, card, after].concat();
            prop_assert_eq!(has_card_number(value.as_bytes()), run_has_card_number(value.as_bytes()), "{}", value);
        }

        /// No sign is asked for that a shape does not have.
        #[test]
        fn ev_2_what_is_looked_at_first_hides_no_shape(
            before in "[ -~]{0,12}",
            which in 0..PREFIXES.len() + 5,
            cut in 0..8_usize,
            after in "[A-Za-z0-9 %]{0,24}",
        ) {
            let more: [&[u8]; 5] = [PEM, BEARER.0, b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0", b"4111 1111-11111111", b"37828224631000599999"];
            let shape = PREFIXES.get(which).map_or_else(|| more[which - PREFIXES.len()], |(prefix, _)| prefix);
            let shape = &shape[..shape.len() - cut.min(shape.len()) / 4];
            let value = [before.as_bytes(), shape, after.as_bytes()].concat();
            prop_assert_eq!(looks_secret(&value), defined(&value));
        }
    }

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
            "2026-4111111111111111",
            "4111111111111111-1",
            "1-4111 1111 1111 1111 12-26 737",
            "2026-07-3782 822463 10005-9",
            "12 4111 1111 1111 1111",
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
            "2026-1234",
            "2026-1234567890123",
            "41 11 11 11 11 11 11 11-1",
            "20264111111111111111",
            "bearer",
        ] {
            assert!(!looks_secret(plain.as_bytes()), "{plain}");
        }
    }
}
