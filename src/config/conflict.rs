//! What git leaves in a file that both sides of a merge have changed.

use super::problem::Problem;

/// The marks of a conflict, as git writes them at the beginning of a line.
const MARKS: [&str; 4] = ["<<<<<<<", "|||||||", "=======", ">>>>>>>"];

/// The conflict that a merge has left in a text, if one has.
pub fn conflict(text: &str) -> Option<Problem> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if mark(line) == Some(0) {
            let problem = Problem::new(at..at + line.trim_end().len(), "git has left a merge conflict here");
            return Some(problem.hint("keep the lines of one side, and remove the three lines of marks"));
        }
        at += line.len();
    }
    None
}

/// Both sides of a text with conflicts: what stands outside of them is part of both.
pub fn sides(text: &str) -> [String; 2] {
    let mut sides = [String::new(), String::new()];
    // Outside of a conflict both, then ours, what both began with, theirs.
    let mut part = None;
    for line in text.split_inclusive('\n') {
        let [ours, theirs] = &mut sides;
        match (mark(line), part) {
            (Some(3), _) => part = None,
            (Some(mark), _) => part = Some(mark),
            (None, None) => {
                ours.push_str(line);
                theirs.push_str(line);
            }
            (None, Some(0)) => ours.push_str(line),
            (None, Some(2)) => theirs.push_str(line),
            (None, Some(_)) => {}
        }
    }
    sides
}

fn mark(line: &str) -> Option<usize> {
    let is =
        |mark: &str| line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n', '\r']));
    MARKS.iter().position(|known| is(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_conflict() {
        let text = "a\n<<<<<<< HEAD\nb\n||||||| 12ab\nx\n=======\nc\n>>>>>>> other\nd\n<<<<<<<\n=======\ne\n>>>>>>>\n";
        assert_eq!(sides(text), ["a\nb\nd\n".to_owned(), "a\nc\nd\ne\n".into()]);
        assert_eq!(conflict(text).map(|problem| problem.span), Some(2..14));
        assert_eq!(conflict("a: |\n  <<<<<<< x\nb: <<<<<<<\n"), None);
    }
}
