// A call of a tool: its name and state, and on request its arguments and result.

import { memo } from "react";
import type { ToolCall } from "../../../src/index.ts";
import { CheckIcon, ChevronIcon, CrossIcon, ToolIcon } from "../../shared/icons.tsx";
import { duration, pretty } from "../../shared/text.ts";

const TOOL_STATE: Record<ToolCall["status"], string> = {
  running: "running",
  succeeded: "done",
  failed: "failed",
  cut: "cut off",
};

export const Tool = memo(function Tool({ tool }: { tool: ToolCall }) {
  const output = tool.status === "failed" ? tool.error : tool.result;
  return (
    <li>
      <details className={`tool ${tool.status}`}>
        <summary>
          <ToolIcon />
          <span className="summary">
            <code>{tool.tool_name}</code>
          </span>
          <span className="tool-state">
            {tool.status === "running" && <span className="spinner" aria-hidden="true" />}
            {tool.status === "succeeded" && <CheckIcon />}
            {(tool.status === "failed" || tool.status === "cut") && <CrossIcon />}
            {TOOL_STATE[tool.status]}
            {tool.duration_ms !== undefined && ` · ${duration(tool.duration_ms)}`}
          </span>
          <ChevronIcon />
        </summary>
        <dl>
          <dt>Arguments</dt>
          <dd>
            <pre tabIndex={0} dir="auto" aria-label="Arguments">{pretty(tool.arguments)}</pre>
          </dd>
          {output !== undefined && (
            <>
              <dt>{tool.status === "failed" ? "Error" : "Result"}</dt>
              <dd>
                <pre tabIndex={0} dir="auto" aria-label="Result">{pretty(output)}</pre>
              </dd>
            </>
          )}
          {tool.truncated && <dd className="note">This is too long to be shown completely.</dd>}
        </dl>
      </details>
    </li>
  );
});
