//! What a process's environment says of agents and tool calls: the few variables that rules ask for.

/// Marker variables as the kernel side took them at exec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Markers {
    /// `NAME=value`, each with a NUL behind it.
    bytes: Box<[u8]>,
    /// There may have been more.
    pub(crate) truncated: bool,
}

impl Markers {
    /// Those among `bytes` whose names are in `wanted`: a recording may hold others.
    pub(crate) fn of(bytes: &[u8], truncated: bool, wanted: &[Vec<u8>]) -> Self {
        let mut kept = Vec::with_capacity(bytes.len());
        for (name, value) in variables(bytes) {
            if wanted.iter().any(|known| known == name) {
                kept.extend_from_slice(name);
                kept.push(b'=');
                kept.extend_from_slice(value);
                kept.push(0);
            }
        }
        Self { bytes: kept.into(), truncated }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Names and values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        variables(&self.bytes)
    }

    /// The value of a variable, unless it is empty.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let value = self.iter().find_map(|(known, value)| (known == name).then_some(value))?;
        (!value.is_empty()).then_some(value)
    }
}

fn variables(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    bytes.split(|&byte| byte == 0).filter_map(|variable| {
        let equals = variable.iter().position(|&byte| byte == b'=')?;
        Some((&variable[..equals], &variable[equals + 1..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_variables_are_kept() {
        let bytes = b"CLAUDECODE=1\0SECRET=hunter2\0A=\0TRACER_AGENT=x=y\0rest";
        let wanted =
            ["CLAUDECODE", "TRACER_AGENT", "A", "rest"].map(|name| name.as_bytes().to_vec());
        let markers = Markers::of(bytes, false, &wanted);
        assert_eq!(markers.get(b"CLAUDECODE"), Some(&b"1"[..]));
        assert_eq!(markers.get(b"TRACER_AGENT"), Some(&b"x=y"[..]));
        assert_eq!(markers.get(b"A"), None);
        assert_eq!(markers.get(b"SECRET"), None);
        assert_eq!(markers.iter().count(), 3);
        assert!(!markers.bytes.windows(7).any(|window| window == b"hunter2"));
    }
}
