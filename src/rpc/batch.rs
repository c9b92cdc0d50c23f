//! Messages that hold many lines or records. Each of those is encoded once, for all clients: what a server sends is a slice of bytes that others
//! send too, since repeated fields of protobuf, one after the other, are the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType},
};

use super::proto::{LogLine, Record};

/// The number of the field, in both messages.
const FIELD: u32 = 1;

/// Items of one kind: encoded, as a server sends them, or decoded, as a client gets them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch<T> {
    encoded: Bytes,
    /// What came in.
    pub items: Vec<T>,
}

/// Lines of a log.
pub(crate) type LogLines = Batch<LogLine>;

/// Records of a journal.
pub(crate) type Records = Batch<Record>;

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self { encoded: Bytes::new(), items: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// What [`encode`] has made, one item or many.
    pub(crate) fn encoded(encoded: Bytes) -> Self {
        Self { encoded, items: Vec::new() }
    }
}

/// Adds an item to what will be a [`Batch`].
pub(crate) fn encode<T: Message>(item: &T, to: &mut BytesMut) {
    encoding::message::encode(FIELD, item, to);
}

impl<T: Message + Default> Message for Batch<T> {
    fn encode_raw(&self, to: &mut impl BufMut) {
        to.put_slice(&self.encoded);
        encoding::message::encode_repeated(FIELD, &self.items, to);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            FIELD => encoding::message::merge_repeated(wire_type, &mut self.items, from, context),
            _ => encoding::skip_field(wire_type, tag, from, context),
        }
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len() + encoding::message::encoded_len_repeated(FIELD, &self.items)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_messages() {
        let line = |seq: u64| LogLine { seq, text: format!("line {seq}"), ..LogLine::default() };
        let mut all = BytesMut::new();
        let mut ends = vec![0];
        for seq in 1..=3 {
            encode(&line(seq), &mut all);
            ends.push(all.len());
        }
        let all = all.freeze();
        let sent = LogLines::encoded(all.slice(ends[1]..ends[3])).encode_to_vec();
        assert_eq!(LogLines::decode(&*sent).expect("a message").items, [line(2), line(3)]);
    }
}
