"""The hash that garbling rests on, and the engines that run whole circuits through it."""
