//! An export that comes from a URL: one GET over HTTP/1.1, with or without TLS, read as it comes.

use crate::output::printable;
use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for the connection, and for each read.
const WAIT: Duration = Duration::from_secs(120);

/// Most bytes of an answer's head, and of one of its lines.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// Most bytes of an error's text that are shown.
const ERROR_BYTES_SHOWN: u64 = 500;

/// Whether a name of the command line is a URL.
pub fn is_url(name: &str) -> bool {
    name.starts_with("http://") || name.starts_with("https://")
}

/// Where the credentials end that stand in what follows a URL's scheme, if it has some. Characters of a password that had to be
/// escaped may have been left as they are.
fn credentials_end(rest: &str) -> Option<usize> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let odd = !authority.starts_with('[') && authority.split_once(':').is_some_and(|(_, port)| !is_port(port));
    odd.then(|| rest.rfind('@')).flatten()
}

/// The name without credentials, if it is a URL that may have some: for whatever is printed. A query may hold them too.
pub fn shown(name: &str) -> Cow<'_, str> {
    let Some((scheme, all)) = name.split_once("://") else { return Cow::Borrowed(name) };
    let rest = credentials_end(all).and_then(|at| all.get(at..));
    let (path, query) =
        rest.unwrap_or(all).split_once('?').map_or((rest.unwrap_or(all), ""), |(path, _)| (path, "?***"));
    let user = if rest.is_some() { "***" } else { "" };
    Cow::Owned(format!("{scheme}://{user}{path}{query}"))
}

/// A text without the query of this URL, which a server may say in its answer.
pub fn without_query(name: &str, text: String) -> String {
    match name.split_once('?').filter(|(url, query)| is_url(url) && !query.is_empty()) {
        Some((_, query)) => text.replace(query, "***"),
        None => text,
    }
}

trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// Asks; gives the answer's body.
///
/// # Errors
/// Nobody answers, or with an error.
pub fn get(url: &str) -> Result<Box<dyn Read>> {
    let (scheme, rest) = url.split_once("://").context("no URL")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    ensure!(credentials_end(rest).is_none(), "credentials in a URL are not taken: run `curl ... | testimony verify -`");
    ensure!(
        url.bytes().all(|byte| byte.is_ascii_graphic()),
        "blanks and the like must be written as %20, %22, ... in a URL"
    );
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let port = if scheme == "https" { 443 } else { 80 };
    let named = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let (host, port) = match named {
        Some((host, digits)) => (host, digits.parse().context("the port of the URL")?),
        None => (authority, port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((host, port)).with_context(|| format!("{host}:{port}"))?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.set_write_timeout(Some(WAIT))?;
    let mut connection: Box<dyn Connection> =
        if scheme == "https" { Box::new(tls(host, socket)?) } else { Box::new(socket) };
    // Compression would have to be undone here.
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {authority}\r\naccept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n\
         user-agent: testimony/{}\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    connection.write_all(request.as_bytes())?;
    connection.flush()?;
    answer(BufReader::new(connection))
}

fn tls(host: &str, socket: TcpStream) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    Ok(StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket))
}

/// Reads the head of an answer.
fn answer<R: BufRead + 'static>(mut from: R) -> Result<Box<dyn Read>> {
    let status = line(&mut from)?;
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse::<u16>().ok());
    let code = code.ok_or_else(|| anyhow!("it does not answer in HTTP/1.1"))?;
    let (mut chunked, mut length) = (false, None);
    let mut head_bytes = 0;
    loop {
        let line = line(&mut from)?;
        if line.is_empty() {
            break;
        }
        head_bytes += line.len() as u64;
        ensure!(head_bytes < HEAD_BYTES_MAX, "the head of its answer is too long");
        let Some((name, value)) = line.split_once(':') else { bail!("it does not answer in HTTP/1.1") };
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            "content-length" => length = Some(value.trim().parse::<u64>().context("the length of its answer")?),
            "content-encoding" if value.trim() != "identity" => {
                bail!("it answers compressed: {}", printable(value.trim()))
            }
            _ => {}
        }
    }
    let body: Box<dyn Read> = match (chunked, length) {
        (true, _) => Box::new(Chunked { from, left: 0, ended: false }),
        (false, Some(length)) => Box::new(Exact { from, left: length }),
        (false, None) => Box::new(from),
    };
    if code != 200 {
        let mut text = Vec::new();
        // What can be read of the error is enough.
        let _ = body.take(ERROR_BYTES_SHOWN).read_to_end(&mut text);
        bail!("it answers {code}: {}", printable(String::from_utf8_lossy(&text).trim()));
    }
    Ok(body)
}

fn line(from: &mut impl BufRead) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(HEAD_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    ensure!(bytes.ends_with(b"\n"), "its answer ends in the head");
    let text = String::from_utf8(bytes).context("the head of its answer")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off: ask again")
}

/// A body of known length: one that ends early is no export.
struct Exact<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(into) = into.get_mut(..most).filter(|into| !into.is_empty()) else { return Ok(0) };
        let count = self.from.read(into)?;
        if count == 0 {
            return Err(cut_off());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// RFC 9112, section 7.1.
struct Chunked<R> {
    from: R,
    left: u64,
    ended: bool,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.ended || into.is_empty() {
            return Ok(0);
        }
        if self.left == 0 {
            let size = line(&mut self.from).map_err(|_| cut_off())?;
            let size = size.split(';').next().unwrap_or_default().trim();
            self.left =
                u64::from_str_radix(size, 16).map_err(|_| io::Error::other("the answer's chunks are damaged"))?;
            if self.left == 0 {
                self.ended = true;
                return Ok(0);
            }
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.from.read(into.get_mut(..most).unwrap_or_default())?;
        if count == 0 {
            return Err(cut_off());
        }
        self.left -= count as u64;
        if self.left == 0 && !line(&mut self.from).map_err(|_| cut_off())?.is_empty() {
            return Err(io::Error::other("the answer's chunks are damaged"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers one request; gives what was asked.
    fn serve(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && socket.read(&mut byte).expect("a request") == 1 {
                asked.push(byte[0]);
            }
            socket.write_all(reply.as_bytes()).expect("it reads");
            String::from_utf8(asked).expect("ASCII")
        });
        (format!("http://{address}/select/logsql/query?query=*"), asked)
    }

    fn body(reply: &'static str) -> Result<String> {
        let (url, asked) = serve(reply);
        let mut text = String::new();
        let read = get(&url).and_then(|mut body| Ok(body.read_to_string(&mut text)?));
        assert!(
            asked.join().expect("asked").starts_with("GET /select/logsql/query?query=* HTTP/1.1\r\nhost: 127.0.0.1:")
        );
        read.map(|_| text)
    }

    #[test]
    fn answers_are_read_in_every_framing() {
        for reply in [
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na\nb\n",
            "HTTP/1.1 200 OK\r\n\r\na\nb\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\na\nb\r\n1\r\n\n\r\n0\r\n\r\n",
        ] {
            assert_eq!(body(reply).expect(reply), "a\nb\n");
        }
    }

    #[test]
    fn answers_that_are_no_export_are_told() {
        for (reply, problem) in [
            ("HTTP/1.1 400 Bad Request\r\ncontent-length: 9\r\n\r\nbad query", "400: bad query"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\na\n", "cut off"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\na\n", "cut off"),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "damaged"),
            ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n", "compressed"),
            ("SSH-2.0-x\r\n", "HTTP/1.1"),
            ("", "ends in the head"),
        ] {
            let error = format!("{:#}", body(reply).expect_err(problem));
            assert!(error.contains(problem), "{reply:?}: {error}");
        }
        assert!(get("http://localhost/a b").is_err());
    }

    #[test]
    fn text_of_an_answer_does_not_reach_a_terminal() {
        for reply in [
            "HTTP/1.1 500 x\r\n\r\n\u{1b}[2J\u{9b}2J\nOK",
            "HTTP/1.1 200 OK\r\ncontent-encoding: \u{1b}[2J\rgzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \u{1b}[2J\r\n\r\n",
            "HTTP/1.1 5\u{1b}0 x\r\n\r\n",
        ] {
            let error = format!("{:#}", body(reply).expect_err(reply));
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_refused_and_never_shown() {
        for (url, shown_as) in [
            ("http://u:secret@host/x?y", "http://***@host/x?***"),
            ("https://secret@host", "https://***@host"),
            ("http://u:se@cret@host:1/x", "http://***@host:1/x"),
            ("http://u:se/cret@host/x", "http://***@host/x"),
            ("http://u:se?cret@host/x", "http://***@host/x"),
            ("http://u:se#cret@host", "http://***@host"),
        ] {
            assert_eq!(shown(url), shown_as);
            // One of no scheme that is known is taken for a file, and said not to be there.
            assert_eq!(shown(&url.to_uppercase()), shown_as.to_uppercase());
            let error = format!("{:#}", get(url).map(drop).expect_err(url));
            assert!(error.contains("credentials in a URL are not taken"), "{error}");
            assert!(!error.contains("cret"), "{error}");
        }
        for plain in ["http://host:1/x@y", "http://[::1]:9428/a@b", "http://host/x", "u:p@host", "-", "a@b?.jsonl"] {
            assert_eq!(shown(plain), plain);
        }
    }

    #[test]
    fn the_query_of_a_url_is_not_shown() {
        let url = "http://ch:8123/?user=audit&password=S3cret&query=x@y";
        assert_eq!(shown(url), "http://ch:8123/?***");
        assert_eq!(shown("http://host:1/x@y?z=a@b"), "http://host:1/x@y?***");
        let answer = format!("no such page: /{}", url.rsplit('/').next().expect("a query"));
        assert_eq!(without_query(url, answer.clone()), "no such page: /?***");
        for other in ["http://ch:8123/", "http://ch:8123/?", "a?b"] {
            assert_eq!(without_query(other, answer.clone()), answer);
        }
    }
}
