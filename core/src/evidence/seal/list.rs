//! Lists of counts inside one field: `part/part=count,...`.

use crate::record::decimal;

/// Appends an entry.
pub(super) fn push_entry(list: &mut Vec<u8>, parts: &[&[u8]], count: u64) {
    if !list.is_empty() {
        list.push(b',');
    }
    push_name(list, parts);
    list.push(b'=');
    let mut digits = [0; 20];
    list.extend_from_slice(decimal(count, &mut digits));
}

/// Appends parts with slashes between. Bytes other than letters, digits and `._:-` become `%XX`, so that a list is read
/// one way only.
pub(super) fn push_name(list: &mut Vec<u8>, parts: &[&[u8]]) {
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            list.push(b'/');
        }
        for byte in *part {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-') {
                list.push(*byte);
            } else {
                list.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
    }
}

/// `address` of `address:port`.
pub(super) fn host_of(peer: &[u8]) -> &[u8] {
    let host = peer.iter().rposition(|byte| *byte == b':').and_then(|at| peer.get(..at)).unwrap_or(peer);
    host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_addresses() {
        let mut list = Vec::new();
        push_entry(&mut list, &[b"rev", b"a,b=c/d%"], 7);
        push_entry(&mut list, &[b"fd00::1"], 0);
        assert_eq!(String::from_utf8_lossy(&list), "rev/a%2Cb%3Dc%2Fd%25=7,fd00::1=0");
        assert_eq!(host_of(b"[fd00::1]:80"), b"fd00::1");
        assert_eq!(host_of(b"10.0.0.1:80"), b"10.0.0.1");
        assert_eq!(host_of(b"-"), b"-");
    }
}
