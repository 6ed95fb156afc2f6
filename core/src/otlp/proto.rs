//! The few pieces of the protobuf wire format that records need.

/// Appends a base-128 varint.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length of a varint, in bytes.
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends key and length of a length-delimited field.
pub fn key_and_len(out: &mut Vec<u8>, field: u32, length: usize) {
    varint(out, (u64::from(field) << 3) | 2);
    varint(out, length as u64);
}

/// Appends a length-delimited field.
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key_and_len(out, field, value.len());
    out.extend_from_slice(value);
}

/// Length of a length-delimited field with its key, in bytes.
pub const fn bytes_len(field: u32, length: usize) -> usize {
    varint_len((field as u64) << 3) + varint_len(length as u64) + length
}

/// Appends a LogRecord's attribute with a string value.
pub fn text_attribute(out: &mut Vec<u8>, name: &str, text: &[u8]) {
    attribute(out, name, bytes_len(1, text.len()));
    // Most are short: then each length is one byte, and what is around the text is written at once.
    match u8::try_from(text.len()) {
        Ok(length @ ..0x80) => out.extend_from_slice(&[0x0a, length]),
        _ => key_and_len(out, 1, text.len()),
    }
    out.extend_from_slice(text);
}

/// Appends a LogRecord's attribute with an integer value.
pub fn int_attribute(out: &mut Vec<u8>, name: &str, number: u64) {
    attribute(out, name, 1 + varint_len(number));
    varint_field(out, 3, number);
}

/// Begins an attribute whose AnyValue has this length, and follows.
fn attribute(out: &mut Vec<u8>, name: &str, value_len: usize) {
    let whole = bytes_len(1, name.len()) + bytes_len(2, value_len);
    match (u8::try_from(whole), u8::try_from(name.len()), u8::try_from(value_len)) {
        (Ok(whole @ ..0x80), Ok(name_len), Ok(value_len)) => {
            out.extend_from_slice(&[0x32, whole, 0x0a, name_len]);
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&[0x12, value_len]);
        }
        _ => {
            key_and_len(out, 6, whole);
            bytes(out, 1, name.as_bytes());
            key_and_len(out, 2, value_len);
        }
    }
}

/// Appends a fixed64 field; zero is the default, and left out.
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    if value == 0 {
        return;
    }
    varint(out, (u64::from(field) << 3) | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Length of what [`fixed64`] appends, in bytes.
pub const fn fixed64_len(field: u32, value: u64) -> usize {
    if value == 0 { 0 } else { varint_len((field as u64) << 3) + 8 }
}

/// Appends a varint field.
pub fn varint_field(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field) << 3);
    varint(out, value);
}

/// Whole length of the length-delimited field at the start of `input`.
pub fn field_len(input: &[u8]) -> Option<usize> {
    let (key, rest) = read_varint(input)?;
    if key & 7 != 2 {
        return None;
    }
    let (length, after) = read_varint(rest)?;
    input.len().checked_sub(after.len())?.checked_add(usize::try_from(length).ok()?)
}

/// Content of the length-delimited field at the start of `input`.
pub fn content(input: &[u8]) -> Option<&[u8]> {
    let (key, rest) = read_varint(input)?;
    if key & 7 != 2 {
        return None;
    }
    let (length, after) = read_varint(rest)?;
    after.get(..usize::try_from(length).ok()?)
}

fn read_varint(input: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, &byte) in input.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, input.get(at + 1..)?));
        }
    }
    None
}
