/** What a server in memory announces, unless a test changes it. */

export const FEATURES = {
  json_first: true,
  auth_required: true,
  heartbeat_supported: true,
  reconnection_supported: true,
  rate_limiting: true,
  message_queuing: true,
  resume: true,
  tickets: true,
};

/** The limits that a server in memory begins with. */
export const LIMITS = {
  max_connections_per_user: 5,
  max_message_rate: 60,
  heartbeat_interval: 30_000,
  max_message_size: 10_240,
  resume_window: 120_000,
  /** Undefined: it accepts no files. */
  max_file_size: 1_000 as number | undefined,
};
