"""Whether influence scores are right about the world: experiments with a known answer."""
