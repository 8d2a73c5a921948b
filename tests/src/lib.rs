//! What the end-to-end tests share: throwaway servers, cgroups, agents, clients.
