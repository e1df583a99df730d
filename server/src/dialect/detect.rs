//! Detects the dialect of a model from its chat template, which writes earlier calls and thoughts in the model's notation.

use super::{Calls, Dialect, Tags};

/// The known tags of thoughts.
const THOUGHTS: [(&str, &str); 4] =
    [("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]")];

/// Detects the dialect. If the notation of calls is unknown, the model is taught [`Calls::Hermes`].
pub fn detect(chat_template: &str) -> Dialect {
    let calls = calls(chat_template).filter(|_| has_word(chat_template, "tools"));
    Dialect {
        reasoning: reasoning(chat_template),
        template_has_tools: calls.is_some(),
        calls: calls.unwrap_or_default(),
    }
}

fn calls(template: &str) -> Option<Calls> {
    if template.contains(Calls::Mistral.open()) {
        // Newer templates write `[TOOL_CALLS]name[ARGS]{…}`, which is unknown here.
        return (!template.contains("[ARGS]")).then_some(Calls::Mistral);
    }
    if template.contains(Calls::Hermes.open()) {
        // Some templates write XML between the tags, which is unknown here.
        return (!template.contains("<function=")).then_some(Calls::Hermes);
    }
    template.contains("\"parameters\"").then_some(Calls::Llama)
}

fn reasoning(template: &str) -> Option<Tags> {
    let (open, close) = THOUGHTS.into_iter().find(|(_, close)| template.contains(close))?;
    // The part of the template that writes the beginning of the reply.
    let beginning = template.rsplit("add_generation_prompt").next().unwrap_or_default();
    let opened = beginning.rfind(open).is_some_and(|at| !beginning[at..].contains(close));
    let optional = has_word(template, "enable_thinking");
    Some(Tags { open: open.into(), close: close.into(), opened, optional })
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_part)
            && !text[at + word.len()..].chars().next().is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_told_apart() {
        let plain = "{% for message in messages %}<|im_start|>{{ message.role }}{% endfor %}";
        assert_eq!(detect(plain), Dialect::default());
        let hermes = "{% if tools %}{{ tools }} answer in <tool_call></tool_call>{% endif %}";
        assert_eq!(detect(hermes), Dialect { template_has_tools: true, ..Dialect::default() });
        let mistral = "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS] [";
        assert_eq!((detect(mistral).calls, detect(mistral).template_has_tools), (Calls::Mistral, true));
        let llama =
            r#"{% if tools is not none %}respond in {"name": function name, "parameters": dictionary}{% endif %}"#;
        assert_eq!((detect(llama).calls, detect(llama).template_has_tools), (Calls::Llama, true));
        for unknown in [
            "{% if tools %}<tool_call><function=name></tool_call>{% endif %}",
            "{% if tools %}[TOOL_CALLS]name[ARGS]{}{% endif %}",
            "{% if xml_tools %}<tool_call></tool_call>{% endif %}",
            "{% if tools %}<|call|>{% endif %}",
        ] {
            assert_eq!(detect(unknown), Dialect::default(), "{unknown}");
        }
    }

    #[test]
    fn thoughts_are_opened_by_some_templates() {
        let tags = |template: &str| detect(template).reasoning.unwrap();
        let strips = "{{ content.split('</think>')[-1] }}";
        let plain = tags(&format!("{strips}{{% if add_generation_prompt %}}<|im_start|>assistant{{% endif %}}"));
        assert_eq!((plain.open.as_str(), plain.opened, plain.optional), ("<think>", false, false));
        let switched =
            "{% if add_generation_prompt %}assistant{% if enable_thinking is false %}<think>\n\n</think>\n\n";
        assert_eq!((tags(switched).opened, tags(switched).optional), (false, true));
        let opened = tags(&format!("{strips}{{% if add_generation_prompt %}}assistant<think>\n{{% endif %}}"));
        assert_eq!((opened.opened, opened.optional), (true, false));
        let both =
            "{% if add_generation_prompt %}{% if not enable_thinking %}<think></think>{% else %}<think>{% endif %}";
        assert_eq!((tags(both).opened, tags(both).optional), (true, true));
        assert!(!detect(both).without_thought().reasoning.unwrap().opened);
        assert_eq!(tags("[THINK]…[/THINK]").open, "[THINK]");
    }
}
