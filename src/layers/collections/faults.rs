//! What a layer says of its own collection in a way that BitBake refuses, once it has read everything, with no word on where it stands. What is not
//! known for certain is left to BitBake.

use super::Set;
use crate::layers::collection_error::CollectionError;

/// BBFILES_DYNAMIC, as it is after the last layer: BitBake looks at it before it reads `local.conf`.
pub(super) fn check_dynamic(set: &Set<'_>) -> Result<(), CollectionError> {
    const NAME: &str = "BBFILES_DYNAMIC";
    let Some(value) = set.reader.get(NAME) else { return Ok(()) };
    let Some(text) = value.certain() else { return Ok(()) };
    let wrong = |entry: &&str| entry.split_once(':').is_none_or(|(collection, _)| collection.is_empty());
    let entries: Vec<String> = text.split_whitespace().filter(wrong).map(str::to_owned).collect();
    match entries.first().map(|first| set.reader.origin(NAME, Some(first))) {
        None => Ok(()),
        Some(at) => Err(CollectionError::Dynamic { entries, at: at.unwrap_or_else(|| set.conf(set.found.len() - 1)) }),
    }
}

/// The priority and the pattern of each collection.
pub(super) fn check_own(set: &Set<'_>) -> Result<(), CollectionError> {
    for (collection, place) in &set.collections {
        let name = format!("BBFILE_PRIORITY_{collection}");
        let priority = set.reader.get(&name);
        let text = priority.as_ref().and_then(|priority| priority.certain()).unwrap_or_default();
        // An empty one is none.
        if !text.is_empty() && !is_int(text) {
            let at = set.reader.origin(&name, None).unwrap_or_else(|| set.conf(*place));
            return Err(CollectionError::Priority { collection: collection.clone(), text: text.to_owned(), at });
        }
        // One that is empty says that the layer has no recipes.
        if set.about("BBFILE_PATTERN", collection).is_none() && !set.reader.partial {
            let at = set.reader.origin("BBFILE_COLLECTIONS", Some(collection)).unwrap_or_else(|| set.conf(*place));
            return Err(CollectionError::Pattern { collection: collection.clone(), at });
        }
    }
    Ok(())
}

/// Whether Python's `int()` takes it: <https://docs.python.org/3/library/functions.html#int>.
pub(super) fn is_int(text: &str) -> bool {
    // What `str.strip()` takes away, and Rust does not: the separators of ASCII.
    let text = text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Digits of other scripts are digits to Python.
    let is_digit = |c: char| c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric());
    digits.split('_').all(|group| !group.is_empty() && group.chars().all(is_digit))
}

/// Its value, for those that people write.
pub(super) fn int(text: &str) -> Option<i64> {
    is_int(text).then(|| text.trim().replace('_', "").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_python_takes() {
        for (text, value) in [
            ("5", Some(5)),
            (" 1_0\t", Some(10)),
            ("-3", Some(-3)),
            ("+07", Some(7)),
            ("\u{667}", None),
            ("99999999999999999999", None),
        ] {
            assert!(is_int(text), "{text}");
            assert_eq!(int(text), value, "{text}");
        }
        for text in ["", " ", "_1", "1_", "1__0", "5.0", "0x5", "high", "- 5", "--5", "5 6", "1e3"] {
            assert!(!is_int(text) && int(text).is_none(), "{text}");
        }
    }
}
