//! How deep JSON is nested, told before it is parsed: a parser of deep JSON takes stack, and what it builds takes it again to be
//! dropped.

/// Whether no more than `max` lists and objects lie within each other; a number or a string alone has depth 0. Of what is not
/// JSON it tells something, too, and the parser the rest.
pub fn depth_within(json: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' if depth == max => return false,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }

    /// With what could be taken for structure in its strings.
    fn json() -> impl Strategy<Value = Value> {
        let text = "[\\[\\]{}\"\\\\a\u{e9}\n]{0,8}";
        let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), text.prop_map(Value::from)];
        leaf.prop_recursive(12, 64, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text, inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_the_depth_of_what_is_parsed(value in json(), pretty: bool) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            let (text, depth) = (text.expect("JSON"), depth(&value));
            prop_assert!(depth_within(&text, depth));
            prop_assert!(depth == 0 || !depth_within(&text, depth - 1));
        }

        #[test]
        fn anything_at_all_can_be_looked_at(bytes: Vec<u8>, max in 0_usize..4) {
            depth_within(&bytes, max);
        }
    }

    #[test]
    fn a_deep_bomb_is_refused_at_its_first_bytes_too_deep() {
        assert!(!depth_within(&b"[".repeat(1 << 20), 32));
        assert!(!depth_within(&b"{\"a\":".repeat(33), 32));
        assert!(depth_within(&b"[]".repeat(1 << 10), 1));
    }
}
