//! Parses a registry's challenge: the header `WWW-Authenticate` (RFC 9110, section 11.6.1). Pure.

/// One way to authenticate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Names, in lower case, and values.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of a header.
pub(super) fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(['=', ' ', '\t', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after_space = after.trim_start_matches([' ', '\t']);
        match (after_space.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, left) = value_of(value.trim_start_matches([' ', '\t']));
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                rest = left;
            }
            // A value without a scheme.
            (Some(value), None) => rest = value,
            (None, _) if word.is_empty() => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

// Parses a token, or a quoted string with backslashes. Gives the rest too.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t']).unwrap_or(text.len()));
        return (value.to_owned(), rest);
    };
    let (mut value, mut chars) = (String::new(), quoted.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => return (value, chars.as_str()),
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn challenges_are_told_apart() {
        let rows = [
            (
                r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#,
                "bearer realm=https://a/t service=s scope=repository:x:pull,push",
            ),
            (r#"Basic realm="Registry Realm""#, "basic realm=Registry Realm"),
            (r#"basic realm=x, Bearer  Realm = "y" ,service=z"#, "basic realm=x|bearer realm=y service=z"),
            (r#"Negotiate abc==, Basic realm="a\"b\\""#, r#"negotiate abc==|basic realm=a"b\"#),
            ("Negotiate", "negotiate"),
            (r#"Bearer realm="open"#, "bearer realm=open"),
            ("", ""),
            ("=x", "x"),
        ];
        for (text, expected) in rows {
            let found: Vec<_> = parse(text)
                .iter()
                .map(|challenge| {
                    let pairs: String =
                        challenge.parameters.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                    format!("{}{pairs}", challenge.scheme)
                })
                .collect();
            assert_eq!(found.join("|"), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_header_stops_it(text in "[ -~]{0,60}") {
            parse(&text);
        }
    }
}
