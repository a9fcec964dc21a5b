//! What programs look like, by globs of their paths, modules and arguments: many of them matched at
//! once, because every exec asks.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::{rules::RulesError, table::Program};

/// What a program looks like.
#[derive(Debug)]
pub(super) struct Pattern {
    names: Vec<Glob>,
    paths: Vec<Glob>,
    modules: Vec<Glob>,
    arguments: Vec<Glob>,
}

/// Many of them, to be matched at once: every exec asks.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    names: Globs,
    paths: Globs,
    modules: Globs,
    arguments: Globs,
}

/// Globs, and which pattern each is of.
#[derive(Debug, Default)]
struct Globs {
    set: GlobSet,
    owners: Vec<usize>,
}

impl Pattern {
    /// As an entry of a rules file says it. `rule`: what errors call it.
    pub(super) fn of(
        rule: &str,
        executables: &[String],
        modules: &[String],
        arguments: &[String],
    ) -> Result<Self, RulesError> {
        let globs = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| glob(rule, text)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            names: globs(&mut executables.iter().filter(|text| !text.contains('/')))?,
            paths: globs(&mut executables.iter().filter(|text| text.contains('/')))?,
            modules: globs(&mut modules.iter())?,
            arguments: globs(&mut arguments.iter())?,
        })
    }
}

impl Patterns {
    pub(super) fn of(patterns: &[&Pattern]) -> Result<Self, RulesError> {
        let globs = |of: fn(&Pattern) -> &[Glob]| {
            let (mut all, mut owners) = (Vec::new(), Vec::new());
            for (owner, pattern) in patterns.iter().enumerate() {
                let globs = of(pattern);
                all.extend_from_slice(globs);
                owners.resize(all.len(), owner);
            }
            Ok::<_, RulesError>(Globs { set: set(&all)?, owners })
        };
        Ok(Self {
            names: globs(|pattern| &pattern.names)?,
            paths: globs(|pattern| &pattern.paths)?,
            modules: globs(|pattern| &pattern.modules)?,
            arguments: globs(|pattern| &pattern.arguments)?,
        })
    }

    /// The first pattern that a program fits.
    pub(super) fn first(&self, program: &Program) -> Option<usize> {
        let Self { names, paths, modules, arguments } = self;
        let of_path = |path: &[u8]| {
            let text = String::from_utf8_lossy(path);
            let name = text.rsplit('/').next().unwrap_or_default();
            first_of([names.first(name), paths.first(&text)])
        };
        let run = program.interpreted();
        let of_arguments = || {
            let args = program.args.split(|&byte| byte == 0).skip(1);
            args.filter_map(|arg| arguments.first(&String::from_utf8_lossy(arg))).min()
        };
        first_of([
            of_path(&program.exe),
            run.script.and_then(of_path),
            run.module.and_then(|module| modules.first(&String::from_utf8_lossy(module))),
            if arguments.owners.is_empty() { None } else { of_arguments() },
        ])
    }
}

impl Globs {
    /// The first pattern that has a glob for this text.
    fn first(&self, text: &str) -> Option<usize> {
        // Most fit none, and then nothing is allocated.
        if self.owners.is_empty() || !self.set.is_match(text) {
            return None;
        }
        self.set.matches(text).into_iter().filter_map(|glob| self.owners.get(glob).copied()).min()
    }
}

fn first_of<const N: usize>(found: [Option<usize>; N]) -> Option<usize> {
    found.into_iter().flatten().min()
}

/// `*` also crosses slashes: a path's depth says nothing here.
pub(super) fn glob(rule: &str, text: &str) -> Result<Glob, RulesError> {
    let glob = GlobBuilder::new(text).literal_separator(false).build();
    glob.map_err(|source| RulesError::Pattern {
        rule: rule.to_owned(),
        pattern: text.to_owned(),
        source,
    })
}

/// All of them, to be matched at once.
pub(super) fn globs(rule: &str, texts: &[String]) -> Result<GlobSet, RulesError> {
    let globs = texts.iter().map(|text| glob(rule, text)).collect::<Result<Vec<_>, _>>()?;
    set(&globs)
}

fn set(globs: &[Glob]) -> Result<GlobSet, RulesError> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    // Each was parsed; all together can still be too large.
    set.build().map_err(RulesError::Patterns)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(executables: &[&str], modules: &[&str], arguments: &[&str]) -> Pattern {
        let [executables, modules, arguments] = [executables, modules, arguments]
            .map(|texts| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>());
        Pattern::of("test", &executables, &modules, &arguments).unwrap()
    }

    /// What each glob by itself says, one after the other.
    fn by_single_globs(patterns: &[&Pattern], program: &Program) -> Option<usize> {
        let any = |globs: &[Glob], text: &[u8]| {
            let text = String::from_utf8_lossy(text);
            globs.iter().any(|glob| glob.compile_matcher().is_match(&*text))
        };
        patterns.iter().position(|Pattern { names, paths, modules, arguments }| {
            let path = |path: &[u8]| {
                let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
                any(names, name) || any(paths, path)
            };
            let run = program.interpreted();
            path(&program.exe)
                || run.script.is_some_and(path)
                || run.module.is_some_and(|module| any(modules, module))
                || program.args.split(|&byte| byte == 0).skip(1).any(|arg| any(arguments, arg))
        })
    }

    proptest! {
        #[test]
        fn program_fits_the_first_pattern_that_has_a_glob_for_it(
            exe in path(),
            args in prop::collection::vec(prop_oneof![path(), "-m|-c|--bot=1|\\PC{0,6}"], 0..4),
        ) {
            let patterns = [
                of(
                    &["*od*", "c?dex", "[ag]*e", "*/bin/c*", "**/lib/{a,b}*"],
                    &["a*"],
                    &["--bot=*", "*/lib/*"],
                ),
                of(&["code", "*.js"], &["aider"], &[]),
                of(&["claude", "*/node_modules/@openai/codex/*", "goose"], &[], &[]),
            ];
            let patterns: Vec<_> = patterns.iter().collect();
            let args: Vec<u8> = args.iter().flat_map(|arg| [arg.as_bytes(), &[0]].concat()).collect();
            let program = Program { exe: exe.as_bytes().into(), args: args.into(), truncated: false };
            let all = Patterns::of(&patterns).unwrap();
            prop_assert_eq!(all.first(&program), by_single_globs(&patterns, &program));
        }
    }

    /// Paths and names of which many fit.
    fn path() -> impl Strategy<Value = String> {
        let name = prop_oneof![
            "code|codex|claude|claude[.]exe|aider|goose|node|python3|co|a|b",
            "[acdegox.]{0,6}([.]js)?",
            "\\PC{0,4}",
        ];
        let folder = "/|/usr/bin/|/lib/|/x/lib/a|[.]/|bin/|/node_modules/@openai/codex/|";
        (folder, name).prop_map(|(folder, name)| (folder + &name).replace('\0', ""))
    }
}
