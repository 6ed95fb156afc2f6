//! Netlink messages and attributes as bytes: a writer, and readers that refuse malformed input instead of trusting it.
//! Pure; netlink's own headers are in the host's byte order, nf_tables' numbers in network order.

/// Set in an attribute's type when its value holds attributes.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that name it.
const TYPE_MASK: u16 = 0x3fff;
/// `nlattr`: length, type.
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// `nlmsghdr`: length, type, flags, sequence number, port id.
const MESSAGE_HEADER_BYTES: usize = 16;
/// `nfgenmsg`: family, version, resource id.
const FAMILY_HEADER_BYTES: usize = 4;

/// Bytes from the kernel that are no netlink message, or not the one asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub(super) &'static str);

/// `length` rounded up to netlink's alignment of four bytes.
fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Writes attributes one after another.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// An attribute with these bytes as its value.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.raw(kind, |out| out.extend_from_slice(value));
    }

    /// A number in network byte order.
    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub(super) fn string(&mut self, kind: u16, value: &str) {
        self.raw(kind, |out| {
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        });
    }

    /// An attribute whose value is what `fill` writes.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.raw(kind | NESTED, |out| {
            let mut inner = Self::default();
            fill(&mut inner);
            out.extend_from_slice(&inner.0);
        });
    }

    fn raw(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        fill(&mut value);
        let length = ATTRIBUTE_HEADER_BYTES + value.len();
        debug_assert!(length <= usize::from(u16::MAX), "our attributes are a few hundred bytes at most");
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.append(&mut value);
        self.0.resize(aligned(self.0.len()), 0);
    }
}

/// Appends one message with an `nfgenmsg` header to `out`.
pub(super) fn message(out: &mut Vec<u8>, header: Header, family: u8, resource: u16, body: &Writer) {
    let length = MESSAGE_HEADER_BYTES + FAMILY_HEADER_BYTES + body.0.len();
    out.extend_from_slice(&(length as u32).to_ne_bytes());
    out.extend_from_slice(&header.kind.to_ne_bytes());
    out.extend_from_slice(&header.flags.to_ne_bytes());
    out.extend_from_slice(&header.sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
    out.extend_from_slice(&body.0);
}

/// What a message's header says, apart from its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) header: Header,
    /// What follows the header, including an `nfgenmsg` where the kind has one.
    pub(super) payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The error number of a message of kind `NLMSG_ERROR`: 0 is an acknowledgement.
    pub(super) fn errno(&self) -> Result<i32, Malformed> {
        let (code, _) = self.payload.split_first_chunk::<4>().ok_or(Malformed("an error without a number"))?;
        Ok(i32::from_ne_bytes(*code).saturating_neg())
    }

    /// The attributes after the `nfgenmsg`.
    pub(super) fn attributes(&self) -> Result<Attributes<'a>, Malformed> {
        let body = self.payload.get(FAMILY_HEADER_BYTES..).ok_or(Malformed("no nfgenmsg"))?;
        Ok(Attributes(body))
    }

    /// Address family of the `nfgenmsg`.
    pub(super) fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }
}

/// The messages of one datagram.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = split_message(self.0);
        self.0 = parsed.as_ref().map_or(&[][..], |&(_, rest)| rest);
        Some(parsed.map(|(message, _)| message))
    }
}

fn split_message(input: &[u8]) -> Result<(Message<'_>, &[u8]), Malformed> {
    let (length, rest) = input.split_first_chunk::<4>().ok_or(Malformed("header cut"))?;
    let (kind, rest) = rest.split_first_chunk::<2>().ok_or(Malformed("header cut"))?;
    let (flags, rest) = rest.split_first_chunk::<2>().ok_or(Malformed("header cut"))?;
    let (sequence, rest) = rest.split_first_chunk::<4>().ok_or(Malformed("header cut"))?;
    let (_port, _) = rest.split_first_chunk::<4>().ok_or(Malformed("header cut"))?;
    let length = u32::from_ne_bytes(*length) as usize;
    let payload = input.get(MESSAGE_HEADER_BYTES..length).ok_or(Malformed("length outside the datagram"))?;
    let header = Header {
        kind: u16::from_ne_bytes(*kind),
        flags: u16::from_ne_bytes(*flags),
        sequence: u32::from_ne_bytes(*sequence),
    };
    Ok((Message { header, payload }, input.get(aligned(length)..).unwrap_or_default()))
}

/// The attributes of one message or of one attribute, as (type, value).
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of this type.
    pub(super) fn find(self, kind: u16) -> Result<Option<&'a [u8]>, Malformed> {
        for attribute in self {
            let (found, value) = attribute?;
            if found == kind {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// A number in network byte order.
    pub(super) fn be32(self, kind: u16) -> Result<Option<u32>, Malformed> {
        match self.find(kind)? {
            None => Ok(None),
            Some(value) => Ok(Some(u32::from_be_bytes(value.try_into().map_err(|_| Malformed("not 32 bits"))?))),
        }
    }

    /// A string, without its terminating zero.
    pub(super) fn string(self, kind: u16) -> Result<Option<&'a str>, Malformed> {
        let Some(value) = self.find(kind)? else { return Ok(None) };
        let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text).map(Some).map_err(|_| Malformed("a name that is not UTF-8"))
    }

    /// The attributes inside the first attribute of this type.
    pub(super) fn nested(self, kind: u16) -> Result<Option<Attributes<'a>>, Malformed> {
        Ok(self.find(kind)?.map(Attributes))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = split_attribute(self.0);
        self.0 = parsed.as_ref().map_or(&[][..], |&(_, _, rest)| rest);
        Some(parsed.map(|(kind, value, _)| (kind, value)))
    }
}

fn split_attribute(input: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let (length, rest) = input.split_first_chunk::<2>().ok_or(Malformed("attribute cut"))?;
    let (kind, _) = rest.split_first_chunk::<2>().ok_or(Malformed("attribute cut"))?;
    let length = usize::from(u16::from_ne_bytes(*length));
    let value = input.get(ATTRIBUTE_HEADER_BYTES..length).ok_or(Malformed("attribute length outside its message"))?;
    Ok((u16::from_ne_bytes(*kind) & TYPE_MASK, value, input.get(aligned(length)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header { kind: 7, flags: 5, sequence: 9 };

    fn sample() -> Vec<u8> {
        let mut body = Writer::default();
        body.string(1, "testimony");
        body.nested(2, |inner| inner.be32(3, 24801));
        let mut out = Vec::new();
        message(&mut out, HEADER, 1, 10, &body);
        out
    }

    #[test]
    fn what_is_written_can_be_read() {
        let bytes = [sample(), sample()].concat();
        let read: Vec<_> = Messages(&bytes).collect::<Result<_, _>>().expect("well formed");
        assert_eq!(read.len(), 2);
        for message in read {
            assert_eq!(message.header, HEADER);
            assert_eq!(message.family(), Some(1));
            let attributes = message.attributes().expect("attributes");
            assert_eq!(attributes.string(1), Ok(Some("testimony")));
            let inner = attributes.nested(2).expect("nested").expect("present");
            assert_eq!(inner.be32(3), Ok(Some(24801)));
            assert_eq!(attributes.find(4), Ok(None));
        }
    }

    #[test]
    fn every_cut_message_is_refused() {
        let whole = sample();
        for end in 1..whole.len() {
            let cut = whole.get(..end).expect("in range");
            assert!(Messages(cut).next().expect("one item").is_err(), "{end} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Messages(&bytes).count() <= bytes.len());
            prop_assert!(Attributes(&bytes).count() <= bytes.len());
            for message in Messages(&bytes).flatten() {
                let _ = (message.errno(), message.family());
                if let Ok(attributes) = message.attributes() {
                    let _ = (attributes.be32(1), attributes.string(2), attributes.nested(3).map(|_| ()));
                }
            }
        }
    }
}
