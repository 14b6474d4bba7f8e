//! The names of the server's tools.

/// Returns a tool's name without the server's prefix: the part after the first `__` (protocol trap 14).
pub fn bare_name(tool: &str) -> &str {
    tool.split_once("__").map_or(tool, |(_, name)| name)
}

/// Returns whether the tool starts a subagent (protocol trap 14).
pub fn is_subagent_tool(tool: &str) -> bool {
    ["dynamic_subagent_task", "resume_subagent_task"].contains(&bare_name(tool))
}

/// Returns whether the tool reads or sends Slack messages (protocol trap 14).
pub fn is_slack_tool(tool: &str) -> bool {
    ["slack_read_messages", "slack_read_replies", "slack_send_message"].contains(&bare_name(tool))
}

/// Returns whether the tool starts something that goes on after the run has ended or was cancelled (protocol trap 17).
pub fn is_background_task(tool: &str) -> bool {
    is_subagent_tool(tool) || ["run_command_task", "run_remote_command_task"].contains(&bare_name(tool))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_prefix_is_stripped() {
        assert_eq!(["view", "p__view", "p__a__b", "__b"].map(bare_name), ["view", "view", "a__b", "b"]);
    }

    #[test]
    fn a_tool_is_known_with_and_without_the_prefix() {
        for (name, subagent, slack, background) in [
            ("run_command_task", false, false, true),
            ("run_remote_command_task", false, false, true),
            ("dynamic_subagent_task", true, false, true),
            ("resume_subagent_task", true, false, true),
            ("slack_send_message", false, true, false),
            ("slack_read_messages", false, true, false),
            ("slack_read_replies", false, true, false),
            ("run_command", false, false, false),
            ("task", false, false, false),
        ] {
            for name in [name.to_owned(), format!("stakpak__{name}")] {
                let kinds = (is_subagent_tool(&name), is_slack_tool(&name), is_background_task(&name));
                assert_eq!(kinds, (subagent, slack, background), "{name}");
            }
        }
    }
}
