// The messages of a thread. The list renders when a message or the state of a run changes; the text
// of a running answer renders by itself.

import { Fragment, memo, useMemo } from "react";
import type { UserEntry } from "../../../src/index.ts";
import { shallowEqual, useNetra } from "../../../src/react/index.ts";
import { titleOfAgent, useAgentList } from "../agents/useAgents.ts";
import { AgentMessage } from "./AgentMessage.tsx";
import { conversationOf, type AgentItem, type Item } from "./conversation.ts";
import { DaySeparator } from "./DaySeparator.tsx";
import { UserMessage } from "./UserMessage.tsx";

interface ListProps {
  readonly threadId: string;
  readonly onSendAgain: (entry: UserEntry) => void;
}

export const MessageList = memo(function MessageList({ threadId, onSendAgain }: ListProps) {
  const items = useNetra((netra) => conversationOf(netra, threadId).items);
  const agents = useAgentList();
  return (
    <div role="log" aria-label="Conversation" className="log">
      {items.map((item, index) => (
        <Fragment key={item.key}>
          <DaySeparator timestamp={item.entry?.timestamp ?? 0} before={items[index - 1]?.entry?.timestamp} />
          <Message
            item={item}
            title={item.kind === "agent" ? titleOfAgent(agents, agentOf(item)) : ""}
            isLast={index === items.length - 1}
            onSendAgain={onSendAgain}
          />
        </Fragment>
      ))}
    </div>
  );
});

const agentOf = ({ entry, run }: AgentItem) =>
  run?.agent_name ?? (entry?.payload["agent_name"] as string | undefined);

interface MessageProps extends Pick<ListProps, "onSendAgain"> {
  readonly item: Item;
  /** Of the agent that answers. */
  readonly title: string;
  readonly isLast: boolean;
}

const isSame = (before: MessageProps, after: MessageProps) =>
  shallowEqual({ ...before, item: null }, { ...after, item: null }) && shallowEqual(before.item, after.item);

const Message = memo(function Message({ item, title, isLast, onSendAgain }: MessageProps) {
  const question = item.kind === "agent" && isLast ? item.question : undefined;
  const onRetry = useMemo(() => question && (() => onSendAgain(question)), [question, onSendAgain]);
  if (item.kind === "user") return <UserMessage item={item} onRetry={onSendAgain} />;
  return <AgentMessage item={item} title={title} onRetry={onRetry} />;
}, isSame);
