//! W3C Trace Context: `traceparent` (<https://www.w3.org/TR/trace-context/>).

use crate::record::hex;

/// A trace context: what a valid `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace id, never zero.
    pub trace_id: u128,
    /// The sender's span id, never zero.
    pub span_id: u64,
    /// Flags; bit 0 is `sampled`.
    pub flags: u8,
}

impl TraceParent {
    /// Parses a header value. Anything that the specification calls invalid gives `None`, never an error.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let version = from_hex(value.get(..2)?)?;
        let exact = value.len() == 55;
        let longer = value.get(55) == Some(&b'-') && version != 0;
        let dashes = [2, 35, 52].iter().all(|&at| value.get(at) == Some(&b'-'));
        if version == 0xff || !dashes || !(exact || longer) {
            return None;
        }
        let trace_id = from_hex(value.get(3..35)?)?;
        let span_id = u64::try_from(from_hex(value.get(36..52)?)?).ok()?;
        let flags = u8::try_from(from_hex(value.get(53..55)?)?).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags })
    }

    /// The header value, version 00.
    pub fn to_header(self) -> String {
        let (trace_id, span_id) =
            (hex::<16, 32>(self.trace_id.to_be_bytes()), hex::<8, 16>(self.span_id.to_be_bytes()));
        let flags: &[u8] = if self.flags & 1 == 1 { b"-01" } else { b"-00" };
        let text = [b"00-", trace_id.as_slice(), b"-", span_id.as_slice(), flags].concat();
        String::from_utf8(text).unwrap_or_default()
    }

    /// A new trace from random bits.
    pub fn made(random_trace: u128, random_span: u64, sampled_percent: u8) -> Self {
        let sampled = (random_span >> 32) % 100 < u64::from(sampled_percent);
        Self { trace_id: random_trace.max(1), span_id: random_span.max(1), flags: u8::from(sampled) }
    }

    /// A new span in the same trace.
    pub fn child(self, random_span: u64) -> Self {
        Self { span_id: random_span.max(1), ..self }
    }
}

/// At most 32 digits.
fn from_hex(digits: &[u8]) -> Option<u128> {
    // Sixteen of them at a time: that is one register.
    digits.chunks(16).try_fold(0_u128, |value, part| Some(value << (4 * part.len()) | u128::from(word_from_hex(part)?)))
}

fn word_from_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn table() {
        assert_eq!(TraceParent::parse(GOOD.as_bytes()).map(TraceParent::to_header).as_deref(), Some(GOOD));
        assert!(TraceParent::parse(GOOD.replacen("00", "cc", 1).as_bytes()).is_some());
        assert!(TraceParent::parse((GOOD.replacen("00", "cc", 1) + "-more").as_bytes()).is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "0000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceParent::parse(&value);
        }
    }
}
