//! The instructions of one stage in their order: the rules that need to know what came before.

use super::stages::Shared;
use super::state::{State, States};
use super::text::keyword;
use super::words::{self, Named};
use super::{Rule, Sink, ports, secrets};
use crate::dockerfile::expand::Style;
use crate::dockerfile::{
    Argument, Assignment, CommandLine, Instruction, InvalidMount, Mount, Node, Run, Span, Transfer,
};
use crate::ignore;

/// ARGs that BuildKit reads itself; they never become variables.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Where checking a stage stands.
pub(super) struct Walk<'a, 's, 'f> {
    shared: &'a Shared<'a>,
    states: &'s mut States,
    state: usize,
    sink: &'s mut Sink<'f>,
    /// Where CMD, ENTRYPOINT and HEALTHCHECK stood last.
    last: [Option<Span>; 3],
}

impl<'a, 's, 'f> Walk<'a, 's, 'f> {
    pub fn new(shared: &'a Shared<'a>, states: &'s mut States, state: usize, sink: &'s mut Sink<'f>) -> Self {
        Self { shared, states, state, sink, last: [None; 3] }
    }

    /// Checks one instruction; its effect is there for the next.
    pub fn instruction(&mut self, node: &Node<Instruction>) {
        let mut named = Named::default();
        match &node.value {
            Instruction::Add(add) => {
                self.transfer(&add.transfer, &mut named);
                self.expand_all(&add.checksum, &mut named);
                self.ignored_sources(node, &add.transfer, "Add");
            }
            Instruction::Copy(copy) => {
                self.transfer(&copy.transfer, &mut named);
                if copy.from.is_none() {
                    self.ignored_sources(node, &copy.transfer, "Copy");
                }
            }
            Instruction::Arg(arguments) => self.arguments(node, arguments),
            Instruction::Env(pairs) => self.env(node, pairs),
            Instruction::Label(pairs) => {
                self.expand_pairs(pairs, &mut named);
                self.legacy(node);
            }
            Instruction::Cmd(command) => self.command(node, 0, command),
            Instruction::Entrypoint(command) => self.command(node, 1, command),
            Instruction::Healthcheck(_) => self.once(node, 2),
            Instruction::Expose(words) => self.ports(node, words),
            Instruction::Run(run) => self.mounts(run, &mut named),
            Instruction::Shell(_) => self.state().has_shell = true,
            Instruction::Stopsignal(text) | Instruction::User(text) => self.expand_all([text], &mut named),
            Instruction::Volume(volumes) => self.expand_all(volumes, &mut named),
            Instruction::Workdir(path) => self.workdir(node, path, &mut named),
            Instruction::Onbuild(trigger) => self.state().triggers.push(trigger.clone()),
            Instruction::Maintainer(_) => {}
        }
        self.undefined(node.span, &named);
    }

    fn state(&mut self) -> &mut State {
        self.states.at_mut(self.state)
    }

    fn style(&self) -> Style {
        Style::new(self.shared.file.escape)
    }

    fn expand(&self, style: Style, text: &str, named: &mut Named) -> String {
        let lookup = |name: &str| self.states.value(self.state, name).map(str::to_owned);
        words::expand(style, text, &lookup, named).unwrap_or_default()
    }

    fn expand_all<'t>(&self, texts: impl IntoIterator<Item = &'t String>, named: &mut Named) {
        for text in texts {
            self.expand(self.style(), text, named);
        }
    }

    fn expand_pairs(&self, pairs: &[Assignment], named: &mut Named) -> Vec<(String, String)> {
        let style = self.style();
        pairs
            .iter()
            .map(|pair| (self.expand(style, &pair.name, named), self.expand(style, &pair.value, named)))
            .collect()
    }

    /// A variable that nothing sets. Where the base image is not known it may set any; then only those
    /// are told that the file itself knows, or nearly.
    fn undefined(&mut self, span: Span, named: &Named) {
        let unset = named
            .unset
            .iter()
            .filter(|name| !self.states.is_declared(self.state, name) && !NO_VARIABLES.contains(&name.as_str()));
        for name in unset {
            let meant = words::meant(name, self.states.names(self.state));
            let is_sure = !self.states.at(self.state).is_unknown;
            let is_slip = meant.is_some_and(|(distance, _)| distance == 1);
            if is_sure || is_slip || self.shared.elsewhere.contains(name.as_str()) {
                let message = format!("Usage of undefined variable '${name}'{}", words::suggestion(meant, "$"));
                self.sink.add(Rule::UndefinedVar, span, message);
            }
        }
    }

    /// ARG: a value from `--build-arg`, else the default, else the global one.
    fn arguments(&mut self, node: &Node<Instruction>, arguments: &[Argument]) {
        for Argument { name, default } in arguments {
            self.secret("ARG", name, node.span);
            let mut named = Named::default();
            let value = match (self.shared.options.build_args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(self.style(), default, &mut named)),
                (None, None) => self.shared.globals.value(name).map(str::to_owned),
            };
            self.undefined(node.span, &named);
            if let Some(value) = value {
                self.states.set(self.state, name.clone(), value);
            }
            self.state().declared.insert(name.clone());
        }
    }

    /// All words see the variables from before the instruction.
    fn env(&mut self, node: &Node<Instruction>, pairs: &[Assignment]) {
        self.legacy(node);
        let mut named = Named::default();
        let pairs = self.expand_pairs(pairs, &mut named);
        self.undefined(node.span, &named);
        for (name, value) in pairs {
            self.secret("ENV", &name, node.span);
            self.states.set(self.state, name, value);
        }
    }

    fn secret(&mut self, instruction: &str, name: &str, span: Span) {
        if secrets::is_secret(name) {
            let message = format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {name:?})");
            self.sink.add(Rule::SecretsUsedInArgOrEnv, span, message);
        }
    }

    fn legacy(&mut self, node: &Node<Instruction>) {
        if self.shared.legacy.contains(&node.span.first) {
            let name = keyword(&node.text);
            let message = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
            self.sink.add(Rule::LegacyKeyValueFormat, node.span, message);
        }
    }

    fn command(&mut self, node: &Node<Instruction>, which: usize, command: &CommandLine) {
        self.once(node, which);
        let is_shell = matches!(command, CommandLine::Shell(_));
        if is_shell && !self.states.at(self.state).has_shell {
            let message = format!(
                "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                keyword(&node.text)
            );
            self.sink.add(Rule::JSONArgsRecommended, node.span, message);
        }
    }

    /// Told at the earlier one, which has no effect.
    fn once(&mut self, node: &Node<Instruction>, which: usize) {
        if let Some(earlier) = self.last[which].replace(node.span) {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                keyword(&node.text)
            );
            self.sink.add(Rule::MultipleInstructionsDisallowed, earlier, message);
        }
    }

    fn transfer(&self, transfer: &Transfer, named: &mut Named) {
        let flags = transfer.chown.iter().chain(&transfer.chmod);
        self.expand_all(transfer.sources.iter().chain([&transfer.destination]).chain(flags), named);
        for heredoc in transfer.heredocs.iter().filter(|heredoc| heredoc.expand) {
            self.expand(Style::heredoc(), &heredoc.text(), named);
        }
    }

    /// With `!` in the ignore file nobody can say without looking at the files.
    fn ignored_sources(&mut self, node: &Node<Instruction>, transfer: &Transfer, verb: &str) {
        let patterns = self.shared.around.ignore;
        if patterns.is_empty() || patterns.has_exceptions() {
            return;
        }
        for source in &transfer.sources {
            let source = self.expand(self.style(), source, &mut Named::default());
            let source = ignore::clean(&source);
            if !source.contains("://") && !source.contains(":/") && patterns.excludes_source(&source) {
                let message = format!("Attempting to {verb} file {source:?} that is excluded by .dockerignore");
                self.sink.add(Rule::CopyIgnoredFile, node.span, message);
            }
        }
    }

    /// The first WORKDIR counts; it makes those after it sure too.
    fn workdir(&mut self, node: &Node<Instruction>, path: &str, named: &mut Named) {
        let path = self.expand(self.style(), path, named);
        if !std::mem::replace(&mut self.state().has_workdir, true) && !path.starts_with('/') {
            let message = format!("Relative workdir {path:?} can have unexpected results if the base image changes");
            self.sink.add(Rule::WorkdirRelativePath, node.span, message);
        }
    }

    fn ports(&mut self, node: &Node<Instruction>, words: &[String]) {
        for word in words {
            let lookup = |name: &str| self.states.value(self.state, name).map(str::to_owned);
            for port in self.style().words(word, &lookup).unwrap_or_default() {
                ports::check(&port, node.span, self.sink);
            }
        }
    }

    fn mounts(&self, run: &Run, named: &mut Named) {
        for mount in &run.mounts {
            // What is wrong with a mount is told by the planner.
            let _ = Mount::parse::<InvalidMount>(mount, |value| Ok(self.expand(self.style(), value, named)));
        }
    }
}
