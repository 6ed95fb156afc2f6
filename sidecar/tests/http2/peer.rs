//! A peer that writes what frames it likes.

use crate::raw::{PREFACE, SETTINGS, SETTINGS_ACK, frame};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS_KIND: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// `GET http / a`, as a header block.
pub const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];

/// What a peer was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One end of a connection.
pub struct Peer {
    pub stream: TcpStream,
    /// Bytes of the preface that come before the first frame.
    preface: usize,
}

/// A frame of any stream.
pub fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(kind, flags, 0, payload);
    bytes[5..9].copy_from_slice(&stream.to_be_bytes());
    bytes
}

impl Peer {
    /// A client that has said nothing yet.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, preface: 0 }
    }

    /// A client that has said its SETTINGS and was told the sidecar's; and the origin's end.
    pub async fn client(stream: TcpStream, listener: &TcpListener) -> (Self, Self) {
        let mut client = Self::new(stream);
        client.send(&[PREFACE, SETTINGS].concat()).await;
        let mut origin = Self::origin(listener).await;
        origin.send(&[SETTINGS, SETTINGS_ACK].concat()).await;
        client.until(|frame| frame.kind == SETTINGS_KIND && frame.flags == 0).await;
        client.send(SETTINGS_ACK).await;
        (client, origin)
    }

    /// The origin's end of the next connection.
    pub async fn origin(listener: &TcpListener) -> Self {
        let stream = listener.accept().await.expect("accept").0;
        Self { stream, preface: PREFACE.len() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("written");
    }

    /// The next frame; `None`: the other side closed.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut preface = vec![0; std::mem::take(&mut self.preface)];
        self.stream.read_exact(&mut preface).await?;
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload }))
    }

    /// The first frame that is wanted.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let next = self.next().await.expect("readable").expect("the connection goes on");
            if wanted(&next) {
                return next;
            }
        }
    }

    /// All frames to the end of the connection, and whether that was a reset.
    pub async fn rest(&mut self) -> (Vec<Frame>, bool) {
        let mut frames = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, false),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                    return (frames, true);
                }
            }
        }
    }
}

/// The code of the last GOAWAY.
pub fn goaway(frames: &[Frame]) -> Option<u8> {
    frames.iter().rfind(|frame| frame.kind == GOAWAY).map(|frame| frame.payload[7])
}
