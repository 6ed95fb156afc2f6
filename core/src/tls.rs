//! What a TLS connection tells in the clear: the ClientHello's server name and protocols (RFC 8446 section 4.1.2, RFC 6066
//! section 3, RFC 7301), the version, and whether the handshake completed.

mod alert;
mod handshake;
mod records;

pub use alert::{Alert, Side};
pub use handshake::{Handshake, HandshakeStatus, SERVER_HELLO_BYTES_MAX};

/// Most bytes of the connection that are looked at: record headers and the hello itself.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;

/// Most protocol names that are kept; the rest is left out.
pub const ALPN_COUNT_MAX: usize = 16;

/// Longest server name in bytes: that of a DNS name.
const SERVER_NAME_BYTES_MAX: usize = 255;

/// What the client's first bytes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The ClientHello is not whole.
    NeedMore,
    /// A whole ClientHello.
    Parsed {
        /// The host name of the `server_name` extension, as sent: 1 to 255 visible ASCII characters.
        server_name: Option<String>,
        /// The protocols of the ALPN extension, as sent; bytes that are not UTF-8 are replaced.
        alpn: Vec<String>,
    },
    /// Not a ClientHello, a malformed one, or one longer than [`CLIENT_HELLO_BYTES_MAX`].
    Invalid,
}

/// Why parsing stopped.
enum Stop {
    NeedMore,
    Invalid,
}

/// Reads a ClientHello, which may be split over records, from all bytes that the client has sent so far. Bytes behind it
/// do not matter.
pub fn client_hello(prefix: &[u8]) -> Hello {
    let window = prefix.get(..CLIENT_HELLO_BYTES_MAX).unwrap_or(prefix);
    match handshake_message(window) {
        Ok(message) => parse(&message).unwrap_or(Hello::Invalid),
        Err(Stop::NeedMore) if window.len() < CLIENT_HELLO_BYTES_MAX => Hello::NeedMore,
        Err(_) => Hello::Invalid,
    }
}

/// The body of the first handshake message, put together from its records.
fn handshake_message(window: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut records = Reader(window);
    let mut handshake = Vec::new();
    loop {
        check_start(&handshake)?;
        if let Some(body) = whole_message(&handshake) {
            return Ok(body.to_vec());
        }
        check_record_start(records.0)?;
        let _type_and_version = records.take(3).ok_or(Stop::NeedMore)?;
        let length = records.u16().ok_or(Stop::NeedMore)?;
        if !(1..=1 << 14).contains(&length) {
            return Err(Stop::Invalid);
        }
        match records.take(length) {
            Some(fragment) => handshake.extend_from_slice(fragment),
            None => {
                handshake.extend_from_slice(records.0);
                check_start(&handshake)?;
                return whole_message(&handshake).map(<[u8]>::to_vec).ok_or(Stop::NeedMore);
            }
        }
    }
}

fn check_record_start(record: &[u8]) -> Result<(), Stop> {
    match record {
        [first, ..] if *first != 0x16 => Err(Stop::Invalid),
        [_, major, ..] if *major != 3 => Err(Stop::Invalid),
        _ => Ok(()),
    }
}

fn check_start(handshake: &[u8]) -> Result<(), Stop> {
    let too_long = match handshake {
        [_, a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]) as usize > CLIENT_HELLO_BYTES_MAX,
        _ => false,
    };
    if too_long || handshake.first().is_some_and(|kind| *kind != 1) { Err(Stop::Invalid) } else { Ok(()) }
}

/// The body of the message at the start of `handshake`, when it is whole.
fn whole_message(handshake: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(handshake);
    let _kind = reader.u8()?;
    let [a, b, c] = *reader.take(3)?.first_chunk()?;
    reader.take(u32::from_be_bytes([0, a, b, c]) as usize)
}

/// `None` when it is malformed.
fn parse(message: &[u8]) -> Option<Hello> {
    let mut reader = Reader(message);
    let _version_and_random = reader.take(2 + 32)?;
    let session_id = reader.vec8()?;
    let cipher_suites = reader.vec16()?;
    let compressions = reader.vec8()?;
    if session_id.len() > 32 || cipher_suites.is_empty() || cipher_suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut server_name = None;
    let mut alpn = Vec::new();
    reader.extensions(|kind, data| {
        match kind {
            0 if server_name.is_none() => server_name = parse_server_name(data)?,
            16 if alpn.is_empty() => alpn = parse_alpn(data)?,
            0 | 16 => return None, // no extension comes twice (RFC 8446 section 4.2)
            _ => {}
        }
        Some(())
    })?;
    if !reader.0.is_empty() {
        return None;
    }
    Some(Hello::Parsed { server_name, alpn })
}

/// `None` when malformed; `Some(None)` when the list holds no host name.
fn parse_server_name(data: &[u8]) -> Option<Option<String>> {
    let mut reader = Reader(data);
    let mut list = Reader(reader.vec16()?);
    if !reader.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind == 0 && found.is_none() {
            let is_name = (1..=SERVER_NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic);
            found = Some(is_name.then(|| String::from_utf8_lossy(name).into_owned())?);
        }
    }
    Some(found)
}

fn parse_alpn(data: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader(data);
    let mut list = Reader(reader.vec16()?);
    let mut names = Vec::new();
    while !list.0.is_empty() {
        let name = list.vec8().filter(|name| !name.is_empty())?;
        if names.len() < ALPN_COUNT_MAX {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    (reader.0.is_empty() && !names.is_empty()).then_some(names)
}

/// Reads big-endian fields; every read is `None` past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)?.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length)
    }

    /// Shows each extension of a hello, its kind and data; `None` when the list is malformed or one is refused. A hello
    /// may end without a list.
    fn extensions(&mut self, mut each: impl FnMut(usize, &'a [u8]) -> Option<()>) -> Option<()> {
        if self.0.is_empty() {
            return Some(());
        }
        let mut list = Reader(self.vec16()?);
        while !list.0.is_empty() {
            let kind = list.u16()?;
            each(kind, list.vec16()?)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vec16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vec16(data)].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        extension(0, &vec16(&[&[0][..], &vec16(name)].concat()))
    }

    fn alpn(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> =
            names.iter().flat_map(|name| [&[u8::try_from(name.len()).unwrap()][..], name].concat()).collect();
        extension(16, &vec16(&list))
    }

    fn message(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(32);
        body.extend([9; 32]);
        body.extend(vec16(&[0x13, 0x01, 0x13, 0x02]));
        body.extend([1, 0]);
        body.extend(extensions.map(vec16).unwrap_or_default());
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
        message.chunks(fragment_bytes).flat_map(|fragment| [vec![0x16, 3, 1], vec16(fragment)].concat()).collect()
    }

    fn parsed(server_name: Option<&str>, alpn: &[&str]) -> Hello {
        Hello::Parsed {
            server_name: server_name.map(str::to_owned),
            alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn every_prefix_and_every_split_over_records() {
        let grease = extension(0x0a0a, b"");
        let extensions =
            [grease, sni(b"Shop.example"), extension(43, &[2, 3, 4]), alpn(&[b"h2", b"http/1.1"])].concat();
        let hello = message(Some(&extensions));
        for fragment_bytes in 1..=hello.len() {
            let bytes = records(&hello, fragment_bytes);
            for end in 0..bytes.len() {
                assert_eq!(client_hello(&bytes[..end]), Hello::NeedMore, "{fragment_bytes} {end}");
            }
            let wanted = parsed(Some("Shop.example"), &["h2", "http/1.1"]);
            assert_eq!(client_hello(&bytes), wanted);
            assert_eq!(client_hello(&[&bytes[..], b"early data"].concat()), wanted);
        }
    }

    #[test]
    fn a_hello_behind_its_own_message_in_one_record_is_whole() {
        let two = [message(None), message(None)].concat();
        assert_eq!(client_hello(&records(&two, 1 << 14)), parsed(None, &[]));
    }

    #[test]
    fn what_may_be_absent() {
        assert_eq!(client_hello(&records(&message(None), 1 << 14)), parsed(None, &[]));
        assert_eq!(client_hello(&records(&message(Some(b"")), 1 << 14)), parsed(None, &[]));
        assert_eq!(client_hello(&records(&message(Some(&alpn(&[b"\xff"]))), 1 << 14)), parsed(None, &["\u{fffd}"]));
    }

    #[test]
    fn malformed_hellos_are_invalid() {
        let long_name = vec![b'a'; 256];
        for extensions in [
            sni(b""),
            sni(b"a b"),
            sni(b"\xc3\xa4"),
            sni(&long_name),
            [sni(b"a"), sni(b"b")].concat(),
            [alpn(&[b"a"]), alpn(&[b"b"])].concat(),
            alpn(&[b""]),
            alpn(&[]),
            extension(0, b"\x00\x09\x00"),
            extension(0, b""),
            b"\x00\x00\x00\x09".to_vec(),
            b"\x00".to_vec(),
        ] {
            assert_eq!(client_hello(&records(&message(Some(&extensions)), 1 << 14)), Hello::Invalid, "{extensions:?}");
        }
        for start in [&b"GET"[..], b"\x16\x02", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\x00\x01\x02", b"\x17"] {
            assert_eq!(client_hello(start), Hello::Invalid, "{start:?}");
        }
        assert_eq!(client_hello(b"\x16\x03\x01\x00\x04\x01\x00\x40\x01"), Hello::Invalid, "longer than the limit");
        let padded = message(Some(&extension(21, &vec![0; CLIENT_HELLO_BYTES_MAX - 200])));
        assert!(matches!(client_hello(&records(&padded, 1 << 14)), Hello::Parsed { .. }));
        assert_eq!(client_hello(&records(&padded, 20)), Hello::Invalid, "record headers count");
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0_usize..200) {
            let mut hello = records(&message(Some(&[sni(b"a.example"), alpn(&[b"h2"])].concat())), 50);
            for (offset, byte) in bytes.iter().take(3).enumerate() {
                let index = (at + offset) % hello.len();
                hello[index] = *byte;
            }
            client_hello(&hello);
            client_hello(&bytes);
            client_hello(&[&b"\x16\x03\x01\x00\xc0\x01\x00\x00\xbc"[..], &bytes].concat());
        }
    }
}
