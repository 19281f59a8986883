//! Rust source without comments, strings and characters: enough to look for words in code.

/// Blanks out comments and the contents of literals; line breaks stay, so line numbers do too.
pub(crate) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let length = match byte {
            b'/' if rest.starts_with(b"//") => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => block_comment(rest),
            b'"' => string(rest),
            b'r' if !continues_word(bytes, at) => match raw_string(rest) {
                0 => 1,
                length => length,
            },
            b'\'' => character(rest),
            _ => 1,
        };
        let blank = length > 1 || matches!(byte, b'"');
        for &b in &rest[..length] {
            out.push(if !blank && b.is_ascii() || b == b'\n' { char::from(b) } else { ' ' });
        }
        at += length;
    }
    out
}

/// The part of a file before its tests, which the style puts last.
pub(crate) fn before_tests(code: &str) -> &str {
    let mut rest = code;
    let mut offset = 0;
    while let Some(found) = rest.find("#[cfg(test)]") {
        let after = found + "#[cfg(test)]".len();
        if rest[after..].trim_start().starts_with("mod ")
            && !rest[after..].split('\n').nth(1).unwrap_or("").ends_with(';')
        {
            return &code[..offset + found];
        }
        offset += after;
        rest = &rest[after..];
    }
    code
}

/// How often `word` stands alone in `code`.
pub(crate) fn count_word(code: &str, word: &str) -> usize {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| *w == word).count()
}

fn continues_word(bytes: &[u8], at: usize) -> bool {
    // A byte string's `b` may stand before the `r`.
    let before = |n: usize| at.checked_sub(n).and_then(|i| bytes.get(i)).copied().unwrap_or(b' ');
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let prefix = matches!(before(1), b'b' | b'c') && !word(before(2));
    word(before(1)) && !prefix
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a raw string that starts here, or 0.
fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut end = vec![b'"'];
    end.resize(hashes + 1, b'#');
    let body = &rest[2 + hashes..];
    body.windows(end.len()).position(|w| w == end).map_or(rest.len(), |i| 2 + hashes + i + end.len())
}

/// The length of a character literal, or 1 when the quote starts a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest[2..].iter().skip(1).position(|b| *b == b'\'').map_or(1, |i| i + 4);
    }
    let text = core::str::from_utf8(&rest[1..rest.len().min(6)])
        .unwrap_or_else(|e| core::str::from_utf8(&rest[1..1 + e.valid_up_to()]).unwrap_or(""));
    let Some(c) = text.chars().next() else { return 1 };
    if rest.get(1 + c.len_utf8()) == Some(&b'\'') { 2 + c.len_utf8() } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_counts() {
        let source = r####"
            // unsafe in a comment, /* not opened
            /* unsafe /* nested unsafe */ unsafe */ let a = "unsafe \" unsafe";
            let b = r#"unsafe "quoted" unsafe"#; let c = b"unsafe"; let d = br"unsafe";
            let quote = '"'; let tick = '\''; let wide = 'é'; fn f<'a>(x: &'a str) { unsafe { g(x) } }
            #![forbid(unsafe_code)] let unsafety = 1; for_unsafe();
        "####;
        let code = code_only(source);
        assert_eq!(count_word(&code, "unsafe"), 1, "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn tests_are_cut_off() {
        let code = "fn f() {}\n#[cfg(test)]\nmod helper;\nfn g() {}\n#[cfg(test)]\nmod tests {\n use std::vec;\n}\n";
        assert_eq!(before_tests(code), "fn f() {}\n#[cfg(test)]\nmod helper;\nfn g() {}\n");
    }
}
