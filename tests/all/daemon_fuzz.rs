//! Messages of the API that are wrong: made from its descriptor alone, by kind or at random.

use std::{collections::HashMap, io::Write as _};

use bytes::Bytes;
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// What reflection serves.
const DESCRIPTOR: &[u8] = include_bytes!("../../src/rpc/generated/smidr.bin");

/// How deep messages are nested that are made here.
const DEPTH: usize = 4;

/// A call.
pub(crate) struct Method {
    pub name: String,
    pub input: String,
    /// Whether it takes a stream of messages.
    pub takes_many: bool,
}

/// What every field of a message holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Say {
    /// Paths where ids are expected.
    Paths,
    /// A megabyte in each field.
    Megabytes,
    /// Bytes that are no UTF-8.
    WrongUtf8,
    /// Numbers of a newer API.
    LaterEnums,
    /// The largest numbers.
    Largest,
    /// Zero bytes, and what terminals obey.
    Control,
}

impl Say {
    pub(crate) const ALL: [Self; 6] =
        [Self::Paths, Self::Megabytes, Self::WrongUtf8, Self::LaterEnums, Self::Largest, Self::Control];

    fn text(self) -> Vec<u8> {
        match self {
            Self::Paths => b"../../../../etc/passwd".to_vec(),
            Self::Megabytes => vec![b'a'; 1 << 20],
            Self::WrongUtf8 => vec![b'p', 0xff, 0xfe, 0xc0, 0x80],
            Self::LaterEnums => b"p-00000001".to_vec(),
            Self::Largest => b"18446744073709551616".to_vec(),
            Self::Control => "a\0b\x1b]0;x\x07\u{202e}\r\n".into(),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::LaterEnums => 1_000_000,
            Self::Largest => u64::MAX,
            _ => 1,
        }
    }
}

/// xorshift64 (Marsaglia, 2003): the seed is told, so that a run can be had again.
pub(crate) struct Random(u64);

impl Random {
    /// By `SMIDR_TEST_SEED`, or by the clock.
    pub(crate) fn seeded() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).expect("after 1970");
        let seed = std::env::var("SMIDR_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64 | 1);
        let _ = writeln!(std::io::stderr(), "SMIDR_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit.max(1) as u64) as usize
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// The API, as its descriptor has it.
pub(crate) struct Api {
    pub methods: Vec<Method>,
    messages: HashMap<String, DescriptorProto>,
}

impl Api {
    pub(crate) fn read() -> Self {
        let set = FileDescriptorSet::decode(DESCRIPTOR).expect("a descriptor");
        let mut api = Self { methods: Vec::new(), messages: HashMap::new() };
        for file in set.file {
            let package = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| api.learn(&package, message));
            for method in file.service.iter().flat_map(|service| &service.method) {
                api.methods.push(Method {
                    name: method.name().into(),
                    input: method.input_type().into(),
                    takes_many: method.client_streaming(),
                });
            }
        }
        api
    }

    fn learn(&mut self, within: &str, message: &DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        message.nested_type.iter().for_each(|inner| self.learn(&name, inner));
        self.messages.insert(name, message.clone());
    }

    /// A message with each field set to that.
    pub(crate) fn directed(&self, message: &str, what: Say) -> Bytes {
        self.filled(message, what, DEPTH).into()
    }

    fn filled(&self, message: &str, what: Say, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &self.messages[message].field {
            match field.r#type() {
                Type::Message if depth > 0 => {
                    put_bytes(field, &self.filled(field.type_name(), what, depth - 1), &mut bytes);
                }
                Type::Message => {}
                Type::String | Type::Bytes => put_bytes(field, &what.text(), &mut bytes),
                _ => put_number(field, what.number(), &mut bytes),
            }
        }
        bytes
    }

    /// A message at random: one of the right shape with odd words, or one that is none.
    pub(crate) fn generated(&self, message: &str, random: &mut Random) -> Bytes {
        let mut bytes = self.random(message, random, DEPTH);
        if random.below(3) == 0 {
            spoil(&mut bytes, random);
        }
        bytes.into()
    }

    fn random(&self, message: &str, random: &mut Random, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in &self.messages[message].field {
            let times = match random.below(6) {
                0 | 1 => 0,
                5 if field.label() == Label::Repeated => 1 + random.below(40),
                _ => 1,
            };
            for _ in 0..times {
                match field.r#type() {
                    Type::Message if depth > 0 => {
                        put_bytes(field, &self.random(field.type_name(), random, depth - 1), &mut bytes);
                    }
                    Type::Message => {}
                    Type::String | Type::Bytes => put_bytes(field, &word(random), &mut bytes),
                    _ => put_number(field, number(random), &mut bytes),
                }
            }
        }
        bytes
    }
}

fn word(random: &mut Random) -> Vec<u8> {
    const WORDS: [&str; 24] = [
        "",
        "p-00000001",
        "p-0000",
        "-",
        ".",
        "..",
        "/",
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "*",
        "%s%n",
        "'; --",
        "null",
        "{}",
        "[]",
        "name: p\n",
        "sha256:",
        "smidr.yaml",
        "acme",
        "0",
        "-1",
        "\u{202e}x",
        "\"",
    ];
    match random.below(8) {
        0 => (0..random.below(40)).map(|_| random.below(256) as u8).collect(),
        1 => random.one(&WORDS).repeat(1 + random.below(300)).into_bytes(),
        2 => {
            let (one, other) = (random.one(&WORDS), random.one(&WORDS));
            format!("{one}{other}").into_bytes()
        }
        _ => random.one(&WORDS).as_bytes().to_vec(),
    }
}

fn number(random: &mut Random) -> u64 {
    let near = random.below(300) as u64;
    random.one(&[0, 1, 2, near, u64::from(u32::MAX), i64::MAX as u64, 1 << 63, u64::MAX])
}

/// Makes a message into something that may be none.
fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() + 1)),
        1 => bytes.extend((0..random.below(30)).map(|_| random.below(256) as u8)),
        2 => bytes.insert(random.below(bytes.len() + 1), random.below(256) as u8),
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.below(256) as u8;
                }
            }
        }
    }
}

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn put_bytes(field: &FieldDescriptorProto, content: &[u8], to: &mut Vec<u8>) {
    varint(u64::from(field.number().cast_unsigned()) << 3 | 2, to);
    varint(content.len() as u64, to);
    to.extend_from_slice(content);
}

/// All numbers of this API are varints.
fn put_number(field: &FieldDescriptorProto, number: u64, to: &mut Vec<u8>) {
    varint(u64::from(field.number().cast_unsigned()) << 3, to);
    varint(number, to);
}
