//! Fields of a byte form, one after the other.

use super::CommandError;

/// What is left to decode.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], CommandError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(CommandError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CommandError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(CommandError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn byte(&mut self, field: &'static str) -> Result<u8, CommandError> {
        self.array(field).map(u8::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, CommandError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self, field: &'static str, len: usize) -> Result<String, CommandError> {
        let text = str::from_utf8(self.take(field, len)?).map_err(|_| CommandError::Text(field))?;
        Ok(text.to_owned())
    }

    /// Bytes with their length, in four bytes, before them.
    pub(super) fn sized(&mut self, field: &'static str) -> Result<Vec<u8>, CommandError> {
        let len = u32::from_le_bytes(self.array(field)?);
        let len = usize::try_from(len).map_err(|_| CommandError::Short(field))?;
        self.take(field, len).map(<[u8]>::to_vec)
    }
}

/// Appends what [`Reader::sized`] reads.
pub(super) fn put_sized(field: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(field.len()).expect("a field has less than 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(field);
}
