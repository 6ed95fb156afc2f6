//! gRPC over HTTP/2, as far as a record tells it: which method, how many messages each way.
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>)

/// Bytes before each message: a flag of compression, and the length, big endian.
const PREFIX_BYTES: usize = 5;

/// Whether a content type says gRPC: `application/grpc`, with a subtype by `+` or parameters. gRPC-Web is another protocol.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some((name, rest)) = content_type.split_at_checked(NAME.len()) else { return false };
    name.eq_ignore_ascii_case(NAME) && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
}

/// Service and method of a path `/package.Service/Method`.
pub(super) fn method_of(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

/// A `grpc-status`: a decimal number of at most three digits.
pub(super) fn status_of(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Counts whole messages in the bytes of one direction, however they are split. Holds 16 bytes, whatever comes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Messages {
    prefix: [u8; PREFIX_BYTES],
    /// Bytes of `prefix` that are there.
    have: usize,
    /// Bytes of the message that are still to come.
    left: u64,
    whole: u64,
}

impl Messages {
    /// Whole messages so far.
    pub fn count(&self) -> u64 {
        self.whole
    }

    /// The next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.have == PREFIX_BYTES {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.get(taken..).unwrap_or_default();
                self.left = self.left.saturating_sub(taken as u64);
            } else {
                let (first, rest) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
                bytes = rest;
                if let Some(slot) = self.prefix.get_mut(self.have) {
                    *slot = first;
                }
                self.have = self.have.saturating_add(1);
                let [_, a, b, c, d] = self.prefix;
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
            }
            if self.have == PREFIX_BYTES && self.left == 0 {
                self.whole = self.whole.saturating_add(1);
                self.have = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(sizes: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for size in sizes {
            bytes.push(0);
            bytes.extend_from_slice(&u32::from(*size).to_be_bytes());
            bytes.resize(bytes.len() + usize::from(*size), 0xff);
        }
        bytes
    }

    fn count<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut messages = Messages::default();
        pieces.into_iter().for_each(|piece| messages.feed(piece));
        messages.count()
    }

    #[test]
    fn every_prefix_and_every_split_of_some_messages() {
        let sizes = [0, 1, 5, 0, 300, 2];
        let bytes = encode(&sizes);
        for at in 0..=bytes.len() {
            let (before, after) = bytes.split_at(at);
            assert_eq!(count([before, after]), 6, "split at {at}");
            let mut end = 0;
            let whole = sizes.iter().take_while(|size| {
                end += usize::from(**size) + PREFIX_BYTES;
                end <= at
            });
            assert_eq!(count([before]), whole.count() as u64, "prefix of {at}");
        }
    }

    #[test]
    fn tables() {
        for (value, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(value.as_bytes()), is, "{value}");
        }
        for (path, parts) in [
            ("/shop.v1.Cart/Add", Some(("shop.v1.Cart", "Add"))),
            ("/a/b/C", Some(("a/b", "C"))),
            ("/C", None),
            ("//C", None),
            ("/s/", None),
            ("", None),
        ] {
            assert_eq!(method_of(path), parts, "{path}");
        }
        for (value, status) in [("0", Some(0)), ("16", Some(16)), ("", None), ("-1", None), ("1000", None), ("x", None)]
        {
            assert_eq!(status_of(value.as_bytes()), status, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_count_the_same(
            bytes in proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => 0..9_u8, 1 => any::<u8>()], 0..200),
            size in 1..9_usize,
        ) {
            prop_assert_eq!(count([bytes.as_slice()]), count(bytes.chunks(size)));
        }
    }
}
