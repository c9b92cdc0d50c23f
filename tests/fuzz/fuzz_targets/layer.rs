//! Archives that nobody thought of, read and unpacked as `smidr image import` does it.
#![no_main]

#[path = "../one.rs"]
mod one;

use std::cell::RefCell;

thread_local!(static YARD: RefCell<one::Yard> = RefCell::new(one::Yard::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    YARD.with_borrow_mut(|yard| {
        let _ = yard.import(input);
    });
});
