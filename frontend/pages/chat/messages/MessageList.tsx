// The messages of a thread. Each selects its own part of the state, so a delta renders one message.

import { Fragment, memo, useMemo } from "react";
import type { UserEntry } from "../../../src/index.ts";
import { shallowEqual, useNetra } from "../../../src/react/index.ts";
import { conversationOf } from "./conversation.ts";
import { AgentMessage } from "./AgentMessage.tsx";
import { DaySeparator } from "./DaySeparator.tsx";
import { UserMessage } from "./UserMessage.tsx";

interface ListProps {
  readonly threadId: string;
  readonly onSendAgain: (entry: UserEntry) => void;
}

export const MessageList = memo(function MessageList({ threadId, onSendAgain }: ListProps) {
  const keys = useNetra((netra) => conversationOf(netra, threadId).keys, shallowEqual);
  return (
    <div role="log" aria-label="Conversation" className="log">
      {keys.map((key, index) => (
        <Fragment key={key}>
          <Day threadId={threadId} itemKey={key} before={keys[index - 1]} />
          <Message itemKey={key} threadId={threadId} isLast={index === keys.length - 1} onSendAgain={onSendAgain} />
        </Fragment>
      ))}
    </div>
  );
});

interface MessageProps extends ListProps {
  readonly itemKey: string;
  readonly isLast: boolean;
}

const Message = memo(function Message({ itemKey, threadId, isLast, onSendAgain }: MessageProps) {
  const item = useNetra((netra) => conversationOf(netra, threadId).items.get(itemKey), shallowEqual);
  const isConnected = useNetra((netra) => netra.isConnected);
  const question = item?.kind === "agent" && isLast ? item.question : undefined;
  const onRetry = useMemo(() => question && (() => onSendAgain(question)), [question, onSendAgain]);
  if (item === undefined) return null;
  if (item.kind === "user") {
    return (
      <UserMessage
        entry={item.entry}
        runStatus={item.runStatus}
        position={item.position}
        isConnected={isConnected}
        onRetry={onSendAgain}
      />
    );
  }
  return <AgentMessage entry={item.entry} run={item.run} status={item.status} onRetry={onRetry} />;
});

interface DayProps {
  readonly threadId: string;
  readonly itemKey: string;
  readonly before: string | undefined;
}

/** The day of a message, if it is not that of the message before. */
const Day = memo(function Day({ threadId, itemKey, before }: DayProps) {
  const timestamp = useNetra((netra) => conversationOf(netra, threadId).items.get(itemKey)?.entry?.timestamp ?? 0);
  const earlier = useNetra((netra) => conversationOf(netra, threadId).items.get(before ?? "")?.entry?.timestamp);
  return <DaySeparator timestamp={timestamp} before={earlier} />;
});
