//! The name of a stream (S1).

use std::fmt;
use std::str::FromStr;

/// Longest name of a stream, in bytes: a namespace has at most 63, the rest has a fixed form.
pub const STREAM_ID_BYTES_MAX: usize = 256;

/// `<cluster uid>/<namespace>/<pod uid>/<boot>-<thread>-<n>` (S1): the origin of the stream's notes and the name of its
/// keys. Holds `[a-z0-9./-]` only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Box<str>);

/// A text that names no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no stream: {problem}")]
pub struct NotAStream {
    /// Its start.
    text: String,
    problem: &'static str,
}

/// What a stream's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamParts<'a> {
    /// Uid of the namespace `kube-system`.
    pub cluster_uid: &'a str,
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Uid of the pod.
    pub pod_uid: &'a str,
    /// 32 hex digits, random for each start of the process.
    pub boot: &'a str,
    /// Number of the data thread.
    pub thread: u32,
    /// Counts rotations.
    pub rotation: u64,
}

impl StreamId {
    /// Joins the parts.
    ///
    /// # Errors
    /// A part that cannot stand in a name.
    pub fn new(parts: &StreamParts<'_>) -> Result<Self, NotAStream> {
        let StreamParts { cluster_uid, namespace, pod_uid, boot, thread, rotation } = parts;
        format!("{cluster_uid}/{namespace}/{pod_uid}/{boot}-{thread}-{rotation}").parse()
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both are of one pod: of one cluster, namespace and uid.
    pub fn is_of_same_pod(&self, other: &Self) -> bool {
        // A name has four parts, the last of which is the stream's own.
        self.0.rsplit_once('/').map(|(pod, _)| pod) == other.0.rsplit_once('/').map(|(pod, _)| pod)
    }

    /// What it says.
    pub fn parts(&self) -> Option<StreamParts<'_>> {
        parts(&self.0).ok()
    }
}

fn parts(text: &str) -> Result<StreamParts<'_>, &'static str> {
    if text.len() > STREAM_ID_BYTES_MAX {
        return Err("it is too long");
    }
    if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'/' | b'-')) {
        return Err("only a-z, 0-9, dot, slash and hyphen may stand in it");
    }
    let form = "it is not CLUSTER/NAMESPACE/POD/BOOT-THREAD-N";
    let mut parts = text.split('/');
    let (Some(cluster_uid), Some(namespace), Some(pod_uid), Some(last), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(form);
    };
    let mut last = last.split('-');
    let (Some(boot), Some(thread), Some(rotation), None) = (last.next(), last.next(), last.next(), last.next()) else {
        return Err(form);
    };
    if [cluster_uid, namespace, pod_uid].iter().any(|part| part.is_empty()) {
        return Err("a part of it is empty");
    }
    if boot.len() != 32 || !boot.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("its boot is not 32 hex digits");
    }
    let numbers = "its thread or rotation is no number";
    let (thread_number, rotation_number) =
        (thread.parse().map_err(|_| numbers)?, rotation.parse().map_err(|_| numbers)?);
    let parts = StreamParts { cluster_uid, namespace, pod_uid, boot, thread: thread_number, rotation: rotation_number };
    // One form for each number.
    if format!("{}-{}", parts.thread, parts.rotation) != format!("{thread}-{rotation}") {
        return Err(numbers);
    }
    Ok(parts)
}

impl FromStr for StreamId {
    type Err = NotAStream;

    fn from_str(text: &str) -> Result<Self, NotAStream> {
        match parts(text) {
            Ok(_) => Ok(Self(text.into())),
            Err(problem) => Err(NotAStream { text: text.chars().take(80).collect(), problem }),
        }
    }
}

impl<'de> serde::Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn s1_a_name_and_its_parts() {
        let parts =
            StreamParts { cluster_uid: "c-1", namespace: "shop", pod_uid: "p-1", boot: BOOT, thread: 1, rotation: 20 };
        let id = StreamId::new(&parts).expect("a name");
        assert_eq!(id.as_str(), format!("c-1/shop/p-1/{BOOT}-1-20"));
        assert_eq!(id.parts(), Some(parts));
    }

    #[test]
    fn s1_what_is_no_name() {
        let long = format!("c/{}/p/{BOOT}-0-0", "n".repeat(220));
        let table = [
            format!("c/n/p/{BOOT}-0"),
            format!("c/n/p/{BOOT}-0-0/x"),
            format!("c//p/{BOOT}-0-0"),
            format!("c/n/p/{BOOT}-00-0"),
            format!("c/n/p/{BOOT}-0-+1"),
            format!("c/N/p/{BOOT}-0-0"),
            format!("c/n/p\n/{BOOT}-0-0"),
            "c/n/p/123-0-0".to_owned(),
            String::new(),
            long,
        ];
        for text in table {
            assert!(text.parse::<StreamId>().is_err(), "{text}");
        }
    }
}
