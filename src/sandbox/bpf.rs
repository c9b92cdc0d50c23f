//! Instructions of seccomp filters (seccomp(2), bpf(2)).

use libc::sock_filter;

/// AUDIT_ARCH_X86_64 and the like, linux/audit.h.
pub(super) mod arch {
    /// 64-bit x86, and x32 with it.
    pub(crate) const X86_64: u32 = 0xC000_003E;
    /// 32-bit x86.
    pub(crate) const I386: u32 = 0x4000_0003;
    /// 64-bit ARM.
    pub(crate) const AARCH64: u32 = 0xC000_00B7;
    /// 32-bit ARM.
    pub(crate) const ARM: u32 = 0x4000_0028;
}

/// The number of a system call, an offset in struct seccomp_data.
pub(super) const NUMBER: u32 = 0;

/// Its architecture.
pub(super) const ARCHITECTURE: u32 = 4;

/// The low half of an argument on a little-endian machine. Every architecture here is one.
pub(super) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Loads a word of struct seccomp_data.
pub(super) fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

/// Allows the call.
pub(super) fn allow() -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW)
}

/// Returns an error without doing the call; 0 pretends success.
pub(super) fn answer(errno: i32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

/// Any instruction without jumps.
pub(super) fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares for equality: skips `jt` instructions if so, `jf` if not.
pub(super) fn jump(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}

/// Tests for common bits: skips `jt` instructions if there are any, `jf` if not.
pub(super) fn jump_if_any(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, jt, jf, k }
}

/// Compares for size: skips `jt` instructions if the word is `k` or more, `jf` if it is less.
pub(super) fn jump_if_at_least(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt, jf, k }
}

/// Keeps these bits of the word.
pub(super) fn mask(k: u32) -> sock_filter {
    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, k)
}

/// Returns an error unless the word is one of these.
pub(super) fn only(words: &[u32], errno: i32) -> Vec<sock_filter> {
    // Past the comparisons that follow, and the answer.
    let past = |at: usize| u8::try_from(words.len() - at).unwrap_or(u8::MAX);
    let jumps = words.iter().enumerate().map(|(at, word)| jump(*word, past(at), 0));
    jumps.chain([answer(errno)]).collect()
}

/// Skips so many instructions.
pub(super) fn skip(instructions: usize) -> sock_filter {
    // A program has 4096 instructions at most.
    statement(libc::BPF_JMP | libc::BPF_JA, instructions as u32)
}
