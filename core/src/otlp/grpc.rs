//! gRPC as far as OTLP's one unary call needs it: where it goes, and the frame around a message.

/// Where OTLP logs go.
pub const LOGS_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Flag and length in front of each message, in bytes.
const FRAME_BYTES: usize = 5;

/// A message with its frame.
pub fn frame(compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(message.len().saturating_add(FRAME_BYTES));
    framed.push(u8::from(compressed));
    // A request has one mebibyte or little more.
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed
}

/// The one message of an answer, and whether its flag says that it is compressed; `None` where it is anything else.
pub fn unframe(body: &[u8]) -> Option<(bool, &[u8])> {
    let (head, message) = body.split_at_checked(FRAME_BYTES)?;
    let (flag, length) = head.split_first()?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let compressed = match flag {
        0 => false,
        1 => true,
        _ => return None,
    };
    (usize::try_from(length) == Ok(message.len())).then_some((compressed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_whole_or_not_at_all() {
        for (compressed, message) in [(false, &b"abc"[..]), (true, b"abc"), (false, b"")] {
            let framed = frame(compressed, message);
            assert_eq!(unframe(&framed), Some((compressed, message)));
            for cut in 0..framed.len() {
                assert_eq!(unframe(&framed[..cut]), None, "{cut}");
            }
            assert_eq!(unframe(&[framed.as_slice(), b"x"].concat()), None);
        }
        assert_eq!(unframe(b"\x02\0\0\0\x03abc"), None, "a flag that is none");
    }
}
