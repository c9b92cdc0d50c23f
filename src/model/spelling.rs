//! Every way in which programs write a text down: as it is, encoded for addresses, quoted by shells, escaped in JSON and the like,
//! and in base64 together with whatever stands around it. Pure.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Shorter pieces of base64 could be part of anything.
const LEAST_OF_BASE64: usize = 12;

/// What encoders leave as it is beside the unreserved characters (RFC 3986): most nothing, Python's urllib the slash, JavaScript's
/// encodeURIComponent and encodeURI more, and so does a browser in the password of an address (WHATWG URL, userinfo).
const KEPT: [&str; 5] = ["", "/", "!'()*", "!'()*;/?:@&=+$,#", "!$&'()*+,"];

/// What bash escapes (lib/sh/shquote.c, bstab), and what zsh and others do in addition.
const BASH: &str = " \t\n'\"\\|&;()<>!{}*[]?^$`,";
const MORE: &str = " \t\n'\"\\|&;()<>!{}*[]?^$`~#=";

/// The text as programs write it where it stands alone; some of these may be the same.
pub(super) fn spellings(text: &str) -> Vec<String> {
    let mut all = vec![text.to_owned()];
    all.extend(KEPT.iter().flat_map(|kept| [false, true].map(|upper| percent(text, upper, kept))));
    // Forms of web pages write a space as plus (application/x-www-form-urlencoded).
    all.extend([false, true].map(|upper| percent(text, upper, "-._~*").replace("%20", "+")));
    all.extend([false, true].map(|upper| percent(text, upper, "").replace("%20", "+")));
    let json = serde_json::Value::from(text).to_string();
    let json = json.get(1..json.len() - 1).unwrap_or_default();
    // Python's json leaves nothing but ASCII, PHP's escapes slashes.
    all.extend([json.into(), ascii(json), json.replace('/', "\\/"), ascii(&json.replace('/', "\\/"))]);
    // In single quotes, by most shells and by dash and Python.
    all.extend([text.replace('\'', "'\\''"), text.replace('\'', "'\"'\"'")]);
    // In double quotes, with and without history; in none.
    all.extend(["$`\"\\", "$`\"\\!", "\"", "\"\\", "'\\", BASH, MORE].map(|special| backslashed(text, special)));
    all.extend([false, true].map(|octal| ansi_c(text, octal)));
    // make and ninja.
    all.push(text.replace('$', "$$"));
    all
}

/// Base64 of a text that stands alone.
pub(super) fn base64(text: &str) -> [String; 2] {
    [STANDARD_NO_PAD.encode(text), URL_SAFE_NO_PAD.encode(text)]
}

/// Base64 of a text with anything before and after it, as in `user:text` for an unknown user: those characters that come
/// from the text alone, for each of the three ways in which it can lie.
pub(super) fn base64_inside(text: &str) -> Vec<String> {
    let inner = |before: usize| {
        let bytes = [vec![0; before].as_slice(), text.as_bytes()].concat();
        // A character holds six bits.
        let (first, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        let encoded = [STANDARD_NO_PAD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)];
        encoded.map(|encoded| encoded.get(first..end).unwrap_or_default().to_owned())
    };
    (0..3).flat_map(inner).filter(|inner| inner.len() >= LEAST_OF_BASE64).collect()
}

/// Everything but the unreserved characters (RFC 3986), and those that are kept, as `%` and two digits.
fn percent(text: &str, upper: bool, kept: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || kept.as_bytes().contains(&b) => {
                char::from(b).to_string()
            }
            b if upper => format!("%{b:02X}"),
            b => format!("%{b:02x}"),
        })
        .collect()
}

fn backslashed(text: &str, special: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        out.extend(special.contains(c).then_some('\\'));
        out.push(c);
    }
    out
}

/// Between `$'` and `'`: bash(1), "QUOTING". In a locale without UTF-8 everything but ASCII is octal.
fn ansi_c(text: &str, octal: bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x1b' => out.push_str("\\E"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c.is_control() || octal && !c.is_ascii() => {
                out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("\\{byte:03o}")));
            }
            c => out.push(c),
        }
    }
    out
}

/// JSON in ASCII: UTF-16 in lower-case digits.
fn ascii(json: &str) -> String {
    let mut out = String::new();
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_write() {
        let text = "a b'c\"d$e`f\\g!h&i;j~k#l,m/n:o@p+qü";
        let known = spellings(text);
        for (by, spelling) in [
            ("bash printf %q", r#"a\ b\'c\"d\$e\`f\\g\!h\&i\;j~k#l\,m/n:o@p+qü"#),
            ("bash set -x", r#"a b'\''c"d$e`f\g!h&i;j~k#l,m/n:o@p+qü"#),
            ("bash declare -p", r#"a b'c\"d\$e\`f\\g!h&i;j~k#l,m/n:o@p+qü"#),
            ("bash @Q in the C locale", r#"a b\'c"d$e`f\\g!h&i;j~k#l,m/n:o@p+q\303\274"#),
            ("dash export -p", r#"a b'"'"'c"d$e`f\g!h&i;j~k#l,m/n:o@p+qü"#),
            ("Python json.dumps", r#"a b'c\"d$e`f\\g!h&i;j~k#l,m/n:o@p+q\u00fc"#),
            ("Python repr", r#"a b\'c"d$e`f\\g!h&i;j~k#l,m/n:o@p+qü"#),
            ("Python urllib quote", "a%20b%27c%22d%24e%60f%5Cg%21h%26i%3Bj~k%23l%2Cm/n%3Ao%40p%2Bq%C3%BC"),
            ("Python urllib quote_plus", "a+b%27c%22d%24e%60f%5Cg%21h%26i%3Bj~k%23l%2Cm%2Fn%3Ao%40p%2Bq%C3%BC"),
            ("JavaScript encodeURIComponent", "a%20b'c%22d%24e%60f%5Cg!h%26i%3Bj~k%23l%2Cm%2Fn%3Ao%40p%2Bq%C3%BC"),
        ] {
            assert!(known.iter().any(|known| known == spelling), "{by}: {spelling}");
        }
    }

    #[test]
    fn base64_with_something_around_it() {
        // printf 'me:0123456789ab' | base64, and with one and two characters more before it.
        assert_eq!(base64_inside("0123456789ab").len(), 6);
        for encoded in ["bWU6MDEyMzQ1Njc4OWFi", "bWVlOjAxMjM0NTY3ODlhYg==", "bWVlZTowMTIzNDU2Nzg5YWI="] {
            let inner = base64_inside("0123456789ab").into_iter().any(|inner| encoded.contains(&inner));
            assert!(inner, "{encoded}");
        }
        assert_eq!(base64_inside("short!!!"), [""; 0]);
        let urls = base64_inside("????????????");
        assert!(urls.iter().any(|inner| inner.contains("_Pz8_")), "{urls:?}");
    }
}
