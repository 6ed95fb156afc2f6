//! Numbers and addresses as text, written into room on the stack: every record has a score of them.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Room for an address with its port, or an `xid`.
const SHORT_BYTES: usize = 64;

/// The two digits of each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Writes a number in decimal, without allocation.
pub(crate) fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    while value >= 10 {
        let pair = PAIRS.get((value % 100) as usize).copied().unwrap_or_default();
        value /= 100;
        at = at.saturating_sub(2);
        if let Some(slot) = digits.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *slot = pair;
        }
    }
    // A single digit is left, or the number is zero.
    if value > 0 || at == digits.len() {
        at = at.saturating_sub(1);
        if let Some(slot) = digits.get_mut(at) {
            *slot = b'0' + (value % 10) as u8;
        }
    }
    digits.get(at..).unwrap_or_default()
}

/// The number that digits alone write.
pub(crate) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    match digits.len() {
        // So many digits fit whatever they are.
        1..=19 => digits.iter().try_fold(0, |number: u64, byte| {
            let digit = byte.wrapping_sub(b'0');
            (digit <= 9).then(|| number * 10 + u64::from(digit))
        }),
        _ => std::str::from_utf8(digits).ok()?.parse().ok(),
    }
}

/// Bytes in lower-case hex; `H` is twice `N`.
pub(crate) fn hex<const N: usize, const H: usize>(bytes: [u8; N]) -> [u8; H] {
    const { assert!(H == 2 * N) };
    let mut text = [0; H];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        let digit = |nibble: u8| HEX.get(usize::from(nibble & 15)).copied().unwrap_or_default();
        *pair = [digit(byte >> 4), digit(byte)];
    }
    text
}

/// A short text.
pub(crate) struct ShortText {
    room: [u8; SHORT_BYTES],
    length: usize,
}

impl ShortText {
    /// `address:port`; an IPv4 address that came mapped into IPv6 is told as IPv4, so that both ends agree.
    pub(crate) fn with_port(address: SocketAddr) -> Self {
        let mut text = Self { room: [0; SHORT_BYTES], length: 0 };
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                text.push_v4(ip);
                text.push(b":");
                text.push(decimal(address.port().into(), &mut [0; 20]));
            }
            ip => text.push_any(SocketAddr::new(ip, address.port())),
        }
        text
    }

    /// The address alone, in the same way.
    pub(crate) fn of_ip(ip: IpAddr) -> Self {
        let mut text = Self { room: [0; SHORT_BYTES], length: 0 };
        match ip.to_canonical() {
            IpAddr::V4(ip) => text.push_v4(ip),
            ip => text.push_any(ip),
        }
        text
    }

    /// `xid` of the exchange with this number on this connection.
    pub(crate) fn xid(conn_id: u64, seq: u64) -> Self {
        let mut text = Self { room: [0; SHORT_BYTES], length: 0 };
        text.push(&hex::<8, 16>(conn_id.to_be_bytes()));
        text.push(b"-");
        text.push(decimal(seq, &mut [0; 20]));
        text
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.room.get(..self.length).unwrap_or_default()
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        let rest = self.room.get_mut(self.length..).unwrap_or_default();
        if let Some(slot) = rest.get_mut(..bytes.len()) {
            slot.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    fn push_v4(&mut self, ip: Ipv4Addr) {
        for (at, octet) in ip.octets().into_iter().enumerate() {
            if at > 0 {
                self.push(b".");
            }
            self.push(decimal(octet.into(), &mut [0; 20]));
        }
    }

    fn push_any(&mut self, value: impl std::fmt::Display) {
        let mut rest = self.room.get_mut(self.length..).unwrap_or_default();
        let before = rest.len();
        if write!(rest, "{value}").is_ok() {
            self.length += before - rest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimal_table() {
        for value in [0, 1, 9, 10, 11, 99, 100, 101, 1_000, 9_999, 12_345, 100_000, u64::MAX / 10, u64::MAX] {
            let mut digits = [0; 20];
            let text = decimal(value, &mut digits);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(parse_decimal(text), Some(value));
        }
        for text in [&b""[..], b"x", b"1x", b"+1", b"-1", b"99999999999999999999", b"184467440737095516150"] {
            assert_eq!(parse_decimal(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_xid_is_the_connection_and_a_number() {
        assert_eq!(ShortText::xid(0xabc, 17).as_str(), "0000000000000abc-17");
        assert_eq!(ShortText::xid(u64::MAX, u64::MAX).as_str(), "ffffffffffffffff-18446744073709551615");
    }

    #[test]
    fn addresses_table() {
        for (address, text) in [
            ("10.244.1.17:43112", "10.244.1.17:43112"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("255.255.255.255:65535", "255.255.255.255:65535"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(ShortText::with_port(address).as_str(), text);
            assert_eq!(ShortText::of_ip(address.ip()).as_str(), address.ip().to_canonical().to_string());
        }
    }

    proptest! {
        #[test]
        fn numbers_are_what_the_library_writes(value: u64, shift in 0..64_u32) {
            let value = value >> shift;
            let (mut digits, text) = ([0; 20], value.to_string());
            prop_assert_eq!(decimal(value, &mut digits), text.as_bytes());
            prop_assert_eq!(hex::<8, 16>(value.to_be_bytes()).to_vec(), format!("{value:016x}").into_bytes());
        }
    }
}
